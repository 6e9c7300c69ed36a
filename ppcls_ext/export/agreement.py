"""Whether the installed runtimes give the same answers of one exported file."""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ppcls_ext.data.image_files import find_images
from ppcls_ext.data.image_input import network_input
from ppcls_ext.errors import PpclsExtError
from ppcls_ext.export.comparison import Agreement, AgreementCounts
from ppcls_ext.export.formats import written_for
from ppcls_ext.predict.classifier import BATCH, Classifier
from ppcls_ext.predict.coreml_model import AppleModel, CoreMlModel, runs_here
from ppcls_ext.predict.metadata import Metadata
from ppcls_ext.predict.runtimes import RUNTIMES, installed, runtime_for
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
        seconds: for an image; None where its own runtime did not run it, but it was computed from the file.
    """

    name: str
    runtime: str
    error: str | None = None
    agreement: Agreement | None = None
    agrees: bool = True
    seconds: float | None = None


class Verified(NamedTuple):
    """What `compare_runtimes` found.

    Attributes:
        source: the ONNX file that all others are compared with.
        images: number of images.
        task: of the file.
        seconds: that onnxruntime takes for an image.
        comparisons: of the others.
    """

    source: str
    images: int
    task: str
    seconds: float
    comparisons: list[Comparison]


def compare_runtimes(file: str, images: Sequence[str], program: str | None = None) -> Verified:
    """Runs an exported file in every runtime, each image in all of them, so that many need no more memory than few.

    Args:
        file: an ONNX file that export-onnx wrote, which the files of its name beside it are compared with, too; or one
            of these alone.
        images: files, folders or patterns.
        program: the folder that export-model wrote of the same weights, for Paddle.

    Raises:
        PpclsExtError: the file or an image cannot be read.
    """
    source = reference_of(file)
    reference = Classifier(source)
    metadata, files = reference.metadata, find_images(images)
    size = reference.batch or BATCH
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="ppcls_ext_"))
        report = stack.enter_context(progress("verifying"))
        others = _others(file, source, program, metadata, Path(folder))
        seconds = 0.0
        for start in range(0, len(files), size):
            some = files[start : start + size]
            inputs = np.stack([network_input(path, metadata.preprocessing) for path in some])
            begin = time.perf_counter()
            expected = _scores(reference, inputs)
            seconds += time.perf_counter() - begin
            for other in others:
                other.add(inputs, expected)
            report(start + len(some), len(files))
        return Verified(source, len(files), metadata.task, seconds / len(files), [one.comparison() for one in others])


def reference_of(file: str) -> str:
    """Returns the ONNX file that another one was made of: the one of the same name beside it.

    Raises:
        PpclsExtError: there is none.
    """
    suffix = next((one.suffix for one in RUNTIMES.values() if one.suffix and file.endswith(one.suffix)), "")
    if not suffix:
        return file
    stem = file[: -len(suffix)]
    # an int8 file may stand beside the fp32 one alone
    names = [
        f"{stem}.onnx",
        *(f"{stem[: -len(form)]}.onnx" for form in ("_fp32", "_fp16", "_int8") if stem.endswith(form)),
    ]
    found = next((name for name in names if Path(name).is_file()), None)
    if found is None:
        raise PpclsExtError(f"{file} is compared with the ONNX file of its name: expected {names[0]} beside it")
    return found


def _others(file: str, source: str, program: str | None, metadata: Metadata, folder: Path) -> list[_Other]:
    """Returns what is compared: a file that is no ONNX file itself, else all runtimes, and the files of its name."""
    if file != source:
        name = runtime_for(file)
        return [_Other(name, name, file, False, metadata), *_by_apple(name, file, metadata)]
    others = [
        _Other("openvino", "openvino", file, False, metadata),
        _Other("openvino bf16", "openvino", file, True, metadata),
    ]
    for name in ("tflite", "ncnn", "coreml"):
        others.append(_Other(name, name, file, False, metadata, partial(_converted, name, file, folder)))
    if program:
        others.append(_Other("paddle", "paddle", program, False, metadata))
    stem = file[: -len(".onnx")] if file.endswith(".onnx") else file
    for name, kind in RUNTIMES.items():
        for form in ("", "_fp32", "_fp16", "_int8") if kind.suffix else ():
            path = f"{stem}{form}{kind.suffix}"
            if Path(path).exists():
                others += [_Other(Path(path).name, name, path, False, metadata), *_by_apple(name, path, metadata)]
    return others


def _by_apple(runtime: str, path: str, metadata: Metadata) -> list[_Other]:
    """A package, run by Core ML itself, where there is one."""
    if runtime != "coreml" or not runs_here():
        return []
    name = f"{Path(path).name}, run by Core ML"
    return [_Other(name, runtime, path, False, metadata, lambda: Classifier.of(AppleModel(path)))]


def _converted(runtime: str, file: str, folder: Path) -> Classifier:
    """Returns what runs the ONNX file in the form that a runtime of phones takes."""
    return Classifier(written_for(runtime, file, folder), runtime=runtime)


class _Other:
    """A runtime whose answers are compared, unless there is a reason not to.

    Args:
        name: of the comparison.
        runtime: its runtime.
        path: what it runs.
        bf16: whether it computes in bfloat16.
        metadata: of the file that it is compared with.
        load: makes what runs it, where that is not `Classifier(path)`.
    """

    def __init__(
        self,
        name: str,
        runtime: str,
        path: str,
        bf16: bool,
        metadata: Metadata,
        load: Callable[[], Classifier] | None = None,
    ) -> None:
        self._name, self._runtime = name, runtime
        self._is_loose, self._is_shown_only = bf16, False
        self._counts = AgreementCounts(metadata)
        self._seconds, self._images = 0.0, 0
        #: The reason why there is nothing to compare.
        self._failed: Comparison | None = None
        if not installed(runtime):
            self._failed = Comparison(name, runtime, f'not installed: pip install "ppcls-ext[{runtime}]"')
            return
        try:
            self._classifier = load() if load else Classifier(path, runtime=runtime, bf16=bf16)
        except PpclsExtError as error:
            # a runtime may lack what bfloat16 needs; a program that was named has to be one
            self._failed = Comparison(name, runtime, str(error), agrees=runtime != "paddle")
            return
        # fewer bits, or runtimes that round them differently
        own = self._classifier.metadata.quantization
        self._is_loose |= bool(metadata.quantization or own)
        # how much int8 loses, its own export has checked: it is shown beside fp32, and judged beside the int8 file
        self._is_shown_only = own == "int8" != metadata.quantization
        task = self._classifier.metadata.task
        if task != metadata.task:
            reason = f"{path} is {task}, the file {metadata.task}: export both of one run"
            self._failed = Comparison(name, runtime, reason, agrees=False)

    def add(self, inputs: np.ndarray, expected: np.ndarray) -> None:
        """Compares its answers to `inputs: (N, 3, H, W)` with the expected ones (N, classes)."""
        if self._failed is not None:
            return
        begin = time.perf_counter()
        try:
            found = _scores(self._classifier, inputs)
            self._seconds, self._images = self._seconds + time.perf_counter() - begin, self._images + len(inputs)
            self._counts.add(found, expected)
        except PpclsExtError as error:
            self._failed = Comparison(self._name, self._runtime, str(error), agrees=False)

    def comparison(self) -> Comparison:
        """Returns the comparison of all answers."""
        if self._failed is not None:
            return self._failed
        found = self._counts.result()
        agrees = self._is_shown_only or (found.is_enough and (self._is_loose or found.change <= LARGEST_DIFFERENCE))
        is_computed = isinstance(self._classifier.network, CoreMlModel)
        seconds = None if is_computed else self._seconds / self._images
        return Comparison(self._name, self._runtime, None, found, agrees, seconds)


def _scores(classifier: Classifier, inputs: np.ndarray) -> np.ndarray:
    size = classifier.batch or 1
    return np.concatenate([classifier.scores(inputs[i : i + size]) for i in range(0, len(inputs), size)])
