"""Whether the installed runtimes give the same answers of one exported file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from ppcls_ext.data.image_files import find_images
from ppcls_ext.data.image_input import network_input
from ppcls_ext.errors import PpclsExtError
from ppcls_ext.export.comparison import Agreement, agreement
from ppcls_ext.predict.classifier import Classifier
from ppcls_ext.predict.metadata import Metadata
from ppcls_ext.predict.runtimes import installed

#: The largest difference of scores that is allowed in fp32.
LARGEST_DIFFERENCE = 1e-3


class Comparison(NamedTuple):
    """The answers of a runtime, compared with onnxruntime's.

    Attributes:
        name: of the comparison, such as "openvino bf16".
        runtime: its runtime.
        error: the reason why there is nothing to compare; None otherwise.
        agreement: of the answers; None where there are none.
        agrees: whether these stay within the limits.
    """

    name: str
    runtime: str
    error: str | None = None
    agreement: Agreement | None = None
    agrees: bool = True


def compare_runtimes(
    file: str, images: Sequence[str], program: str | None = None
) -> tuple[int, str, Iterator[Comparison]]:
    """Runs an exported file in every runtime.

    Args:
        file: an ONNX file that export-onnx wrote.
        images: files, folders or patterns.
        program: the folder that export-model wrote of the same weights, for Paddle.

    Returns:
        The number of images, the file's task, and the comparisons, each made when it is asked for.

    Raises:
        PpclsExtError: the file or an image cannot be read.
    """
    reference = Classifier(file)
    rule = reference.metadata.preprocessing
    inputs = np.stack([network_input(path, rule) for path in find_images(images)])
    expected = _scores(reference, inputs)
    others = [("openvino", "openvino", file, False), ("openvino bf16", "openvino", file, True)]
    others += [("ncnn", "ncnn", file, False), *([("paddle", "paddle", program, False)] if program else [])]
    return (
        len(inputs),
        reference.metadata.task,
        (_compare(*other, inputs, expected, reference.metadata) for other in others),
    )


def _compare(
    name: str, runtime: str, path: str, bf16: bool, inputs: np.ndarray, expected: np.ndarray, metadata: Metadata
) -> Comparison:
    if not installed(runtime):
        return Comparison(name, runtime, f'not installed: pip install "ppcls-ext[{runtime}]"')
    try:
        other = Classifier(path, runtime=runtime, bf16=bf16)
    except PpclsExtError as error:
        # a runtime may lack what bfloat16 needs; a program that was named has to be one
        return Comparison(name, runtime, str(error), agrees=runtime != "paddle")
    try:
        if other.metadata.task != metadata.task:
            raise PpclsExtError(f"{path} is {other.metadata.task}, the file {metadata.task}: export both of one run")
        found = agreement(_scores(other, inputs), expected, metadata)
    except PpclsExtError as error:
        return Comparison(name, runtime, str(error), agrees=False)
    loose = bf16 or metadata.quantization == "int8"  # runtimes round differently
    return Comparison(name, runtime, None, found, found.is_enough and (loose or found.change <= LARGEST_DIFFERENCE))


def _scores(classifier: Classifier, inputs: np.ndarray) -> np.ndarray:
    size = classifier.batch or 1
    return np.concatenate([classifier.scores(inputs[i : i + size]) for i in range(0, len(inputs), size)])
