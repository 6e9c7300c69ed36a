"""Whether the installed runtimes give the same answers of one exported file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from ppcls_ext.data.image_files import find_images
from ppcls_ext.data.image_input import network_input
from ppcls_ext.errors import PpclsExtError
from ppcls_ext.export.comparison import AGREEMENT, agreement
from ppcls_ext.predict.classifier import Classifier
from ppcls_ext.predict.runtimes import installed

#: The largest difference of probabilities that is allowed in fp32.
LARGEST_DIFFERENCE = 1e-3


class Comparison(NamedTuple):
    """The answers of a runtime, compared with onnxruntime's.

    Attributes:
        name: of the comparison, such as "openvino bf16".
        runtime: its runtime.
        error: the reason why nothing was compared; None otherwise.
        difference: largest difference of probabilities.
        agreement: share of images with the same class.
        agrees: whether these stay within the limits.
    """

    name: str
    runtime: str
    error: str | None = None
    difference: float = 0.0
    agreement: float = 0.0
    agrees: bool = True


def compare_runtimes(file: str, images: Sequence[str], program: str | None = None) -> tuple[int, Iterator[Comparison]]:
    """Runs an exported file in every runtime.

    Args:
        file: an ONNX file that export-onnx wrote.
        images: files, folders or patterns.
        program: the folder that export-model wrote of the same weights, for Paddle.

    Returns:
        The number of images, and the comparisons, each made when it is asked for.

    Raises:
        PpclsExtError: the file or an image cannot be read.
    """
    reference = Classifier(file)
    rule = reference.metadata.preprocessing
    inputs = np.stack([network_input(path, rule) for path in find_images(images)])
    expected = _probabilities(reference, inputs)
    loose = reference.metadata.quantization == "int8"  # runtimes round differently
    others = [("openvino", "openvino", file, False), ("openvino bf16", "openvino", file, True)]
    others += [("ncnn", "ncnn", file, False), *([("paddle", "paddle", program, False)] if program else [])]
    return len(inputs), (_compare(*other, inputs, expected, loose) for other in others)


def _compare(
    name: str, runtime: str, path: str, bf16: bool, inputs: np.ndarray, expected: np.ndarray, loose: bool
) -> Comparison:
    if not installed(runtime):
        return Comparison(name, runtime, f'not installed: pip install "ppcls-ext[{runtime}]"')
    try:
        got = _probabilities(Classifier(path, runtime=runtime, bf16=bf16), inputs)
    except PpclsExtError as error:
        return Comparison(name, runtime, str(error))
    difference = float(np.abs(got - expected).max())
    same = agreement(got, expected)
    agrees = same >= AGREEMENT and (loose or bf16 or difference <= LARGEST_DIFFERENCE)
    return Comparison(name, runtime, None, difference, same, agrees)


def _probabilities(classifier: Classifier, inputs: np.ndarray) -> np.ndarray:
    size = classifier.batch or 1
    return np.concatenate([classifier.probabilities(inputs[i : i + size]) for i in range(0, len(inputs), size)])
