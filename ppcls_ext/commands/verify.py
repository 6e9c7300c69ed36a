"""The command verify: one exported file in every runtime that is installed."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from ppcls_ext.commands.options import command_parser
from ppcls_ext.data.image_files import find_images
from ppcls_ext.data.image_input import network_input
from ppcls_ext.errors import PpclsExtError
from ppcls_ext.export.comparison import AGREEMENT, agreement
from ppcls_ext.predict.classifier import Classifier
from ppcls_ext.predict.runtimes import installed, with_version

#: The largest difference of probabilities that is allowed in fp32.
LARGEST_DIFFERENCE = 1e-3
COLUMNS = "{:<28} {:>10} {:>12}"


def main(argv: Sequence[str] | None = None) -> int:
    """`ppcls-ext verify`."""
    args = _parse(argv)
    reference = Classifier(args.file)
    rule = reference.metadata.preprocessing
    pictures = np.stack([network_input(path, rule) for path in find_images(args.pictures)])
    expected = _probabilities(reference, pictures)
    print(f"{args.file}: {len(pictures)} pictures, compared with {with_version('onnxruntime')}")
    print(COLUMNS.format("runtime", "difference", "same class"))
    failed = False
    loose = reference.metadata.quantization == "int8"  # runtimes round differently
    for name, runtime, path, bf16 in _others(args.file, args.program):
        if not installed(runtime):
            print(f'{name:<28} not installed: pip install "ppcls-ext[{runtime}]"')
            continue
        try:
            got = _probabilities(Classifier(path, runtime=runtime, bf16=bf16), pictures)
        except PpclsExtError as error:
            print(f"{name:<28} {error}")
            continue
        difference = float(np.abs(got - expected).max())
        same = agreement(got, expected)
        print(COLUMNS.format(with_version(runtime, name), f"{difference:.1e}", f"{same:.1%}"))
        failed |= same < AGREEMENT or not (loose or bf16 or difference <= LARGEST_DIFFERENCE)
    if failed:
        raise PpclsExtError(f"{args.file}: a runtime gives other answers than onnxruntime; the table says which")
    return 0


def _others(file: str, program: str | None) -> Iterator[tuple[str, str, str, bool]]:
    """(name, runtime, what it reads, bf16) of each comparison."""
    yield "openvino", "openvino", file, False
    yield "openvino bf16", "openvino", file, True
    yield "ncnn", "ncnn", file, False
    if program is not None:
        yield "paddle", "paddle", program, False


def _probabilities(classifier: Classifier, pictures: np.ndarray) -> np.ndarray:
    size = classifier.batch or 1
    return np.concatenate([classifier.probabilities(pictures[i : i + size]) for i in range(0, len(pictures), size)])


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = command_parser(
        "verify", "verify MobileOne_S0.onnx photos", "verify MobileOne_S0.onnx photos --program inference"
    )
    parser.add_argument("file", metavar="FILE", help="that export-onnx wrote")
    parser.add_argument("pictures", nargs="+", metavar="PICTURE", help="picture, folder, or quoted pattern")
    parser.add_argument("--program", metavar="FOLDER", help="that export-model wrote of the same weights, for Paddle")
    args = parser.parse_args(argv)
    if args.program is not None and not Path(args.program).is_dir():
        parser.error(f"--program {args.program}: expected a folder that export-model wrote")
    return args
