"""Whether the installed runtimes give the same answers of one exported file."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ppcls_ext.data.image_files import find_images
from ppcls_ext.data.image_input import network_input
from ppcls_ext.errors import PpclsExtError
from ppcls_ext.export.comparison import Agreement, AgreementCounts
from ppcls_ext.predict.classifier import BATCH, Classifier
from ppcls_ext.predict.metadata import Metadata
from ppcls_ext.predict.runtimes import installed
from ppcls_ext.progress import progress

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


def compare_runtimes(file: str, images: Sequence[str], program: str | None = None) -> tuple[int, str, list[Comparison]]:
    """Runs an exported file in every runtime, each image in all of them, so that many need no more memory than few.

    Args:
        file: an ONNX file that export-onnx wrote.
        images: files, folders or patterns.
        program: the folder that export-model wrote of the same weights, for Paddle.

    Returns:
        The number of images, the file's task, and the comparisons.

    Raises:
        PpclsExtError: the file or an image cannot be read.
    """
    reference = Classifier(file)
    metadata, files = reference.metadata, find_images(images)
    others = [
        _Other("openvino", "openvino", file, False, metadata),
        _Other("openvino bf16", "openvino", file, True, metadata),
        _Other("ncnn", "ncnn", file, False, metadata),
        *([_Other("paddle", "paddle", program, False, metadata)] if program else []),
    ]
    size = reference.batch or BATCH
    with progress("verifying") as report:
        for start in range(0, len(files), size):
            some = files[start : start + size]
            inputs = np.stack([network_input(path, metadata.preprocessing) for path in some])
            expected = _scores(reference, inputs)
            for other in others:
                other.add(inputs, expected)
            report(start + len(some), len(files))
    return len(files), metadata.task, [other.comparison() for other in others]


class _Other:
    """A runtime whose answers are compared, unless there is a reason not to.

    Args:
        name: of the comparison.
        runtime: its runtime.
        path: what it runs.
        bf16: whether it computes in bfloat16.
        metadata: of the file that it is compared with.
    """

    def __init__(self, name: str, runtime: str, path: str, bf16: bool, metadata: Metadata) -> None:
        self._name, self._runtime = name, runtime
        self._is_loose = bf16 or metadata.quantization == "int8"  # runtimes round differently
        self._counts = AgreementCounts(metadata)
        #: The reason why there is nothing to compare.
        self._failed: Comparison | None = None
        if not installed(runtime):
            self._failed = Comparison(name, runtime, f'not installed: pip install "ppcls-ext[{runtime}]"')
            return
        try:
            self._classifier = Classifier(path, runtime=runtime, bf16=bf16)
        except PpclsExtError as error:
            # a runtime may lack what bfloat16 needs; a program that was named has to be one
            self._failed = Comparison(name, runtime, str(error), agrees=runtime != "paddle")
            return
        task = self._classifier.metadata.task
        if task != metadata.task:
            reason = f"{path} is {task}, the file {metadata.task}: export both of one run"
            self._failed = Comparison(name, runtime, reason, agrees=False)

    def add(self, inputs: np.ndarray, expected: np.ndarray) -> None:
        """Compares its answers to `inputs: (N, 3, H, W)` with the expected ones (N, classes)."""
        if self._failed is not None:
            return
        try:
            self._counts.add(_scores(self._classifier, inputs), expected)
        except PpclsExtError as error:
            self._failed = Comparison(self._name, self._runtime, str(error), agrees=False)

    def comparison(self) -> Comparison:
        """Returns the comparison of all answers."""
        if self._failed is not None:
            return self._failed
        found = self._counts.result()
        agrees = found.is_enough and (self._is_loose or found.change <= LARGEST_DIFFERENCE)
        return Comparison(self._name, self._runtime, None, found, agrees)


def _scores(classifier: Classifier, inputs: np.ndarray) -> np.ndarray:
    size = classifier.batch or 1
    return np.concatenate([classifier.scores(inputs[i : i + size]) for i in range(0, len(inputs), size)])
