"""The command explain: where in a picture the evidence for a class lies."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ppcls_ext.commands.options import command_parser
from ppcls_ext.data.image_files import find_images
from ppcls_ext.data.image_input import network_input
from ppcls_ext.data.image_rule import Preprocessing
from ppcls_ext.errors import PpclsExtError, one_line, printable
from ppcls_ext.files import unused
from ppcls_ext.packages import require
from ppcls_ext.predict.classifier import Classifier, softmax
from ppcls_ext.predict.evidence import Halves, read_evidence, split_file
from ppcls_ext.predict.metadata import Metadata
from ppcls_ext.report.image_figures import EXACT, FIRST_ORDER, activation_map, draw_activation_map, to_pixels


class _Explained(NamedTuple):
    """A net in two halves, and what is known about it."""

    halves: Halves
    metadata: Metadata


def main(argv: Sequence[str] | None = None) -> int:
    """`ppcls-ext explain`."""
    args = _parse(argv)
    require("matplotlib")  # before the work, not behind it
    files = find_images(args.images)
    net = _open_file(args.model) if _is_file(Path(args.model)) else _open_run(args.model)
    names, rule = net.metadata.class_names or (), net.metadata.preprocessing
    wanted = None if args.class_ is None else _class_index(args.class_, names)
    written: list[Path] = []
    for file in files:
        try:
            image = network_input(file, rule)
        except PpclsExtError as error:
            print(f"error: {printable(one_line(error))}", file=sys.stderr)
            continue
        evidence = read_evidence(net.halves, image, wanted)
        index = evidence.class_index
        name = names[index] if index < len(names) and names[index] else f"class {index}"
        score = float(softmax(evidence.logits)[index])
        target = unused(Path(args.output) / f"{file.stem}-class-{index}.png", written.__contains__)
        draw_activation_map(
            _pixels(image, rule),
            activation_map(evidence.features, evidence.derivative),
            name,
            score,
            EXACT if evidence.is_exact else FIRST_ORDER,
            target,
        )
        written.append(target)
        print(f"{printable(str(target))}  {printable(name)} {score:.1%}", flush=True)
    return 1 if len(written) < len(files) else 0


def _is_file(path: Path) -> bool:
    """Whether an exported file is meant, and no run or weights in one."""
    return path.suffix.lower() == ".onnx" or (path.is_file() and path.suffix != ".pdparams")


def _open_file(path: str) -> _Explained:
    return _Explained(split_file(path), Classifier(path).metadata)


def _open_run(name: str) -> _Explained:
    from ppcls_ext.commands.source import open_run
    from ppcls_ext.config.folder import find_run, need_weights

    try:
        run = find_run(name)
    except PpclsExtError as error:
        raise PpclsExtError(f"{error}; or an ONNX file") from error
    need_weights(run)
    config = open_run(run, [])

    from ppcls_ext.export.configured import build, describe
    from ppcls_ext.hosts.threads import use_all_cores

    metadata = describe(config)
    print(f"{run.weights}: loading Paddle", file=sys.stderr, flush=True)  # which takes some seconds
    use_all_cores()
    from ppcls_ext.export.halves import split_model

    return _Explained(split_model(build(config)), metadata)


def _pixels(image: np.ndarray, rule: Preprocessing) -> np.ndarray:
    pixels = to_pixels(image[None], rule.mean, rule.std, rule.scale)[0]
    return pixels[:, :, ::-1] if rule.channel_order == "BGR" else pixels


def _class_index(text: str, names: Sequence[str]) -> int:
    if text in names:
        return list(names).index(text)
    if text.isdecimal() and len(text) < 8:
        return int(text)
    raise PpclsExtError(f"--class is {text!r}: expected a class's number" + (" or name" if names else ""))


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = command_parser(
        "explain",
        "explain output/MobileOne_S0 flower.jpg",
        "explain MobileOne_S0.onnx flower.jpg --output explained",
        description="Writes a PNG per picture: the picture as the net sees it, and over it the class activation map of "
        "the most probable class. The net is that of a run's best weights, or of a file that export-onnx wrote, "
        "which needs no Paddle.",
    )
    parser.add_argument("model", metavar="RUN|FILE", help="folder that a training wrote, or ONNX file")
    parser.add_argument("images", nargs="+", metavar="PICTURE", help="picture, folder, or quoted pattern")
    parser.add_argument("--class", dest="class_", metavar="CLASS", help="name or number (default: the most probable)")
    parser.add_argument("--output", default="explained", metavar="FOLDER", help="default: %(default)s")
    return parser.parse_args(argv)
