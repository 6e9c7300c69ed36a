"""The runtimes that can run an exported model: onnxruntime, OpenVINO, Paddle Inference, and those of phones.

Each runtime's package is imported when its first model is loaded. The name of a file for phones says which one runs it.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from ppcls_ext.errors import PpclsExtError, one_line
from ppcls_ext.packages import import_extra, require
from ppcls_ext.predict.coreml_model import SUFFIX as COREML
from ppcls_ext.predict.coreml_model import CoreMlModel
from ppcls_ext.predict.inference_yml import NAME, read_inference_yml
from ppcls_ext.predict.metadata import LOGITS, OUTPUTS, Metadata
from ppcls_ext.predict.ncnn_model import PARAM, NcnnModel
from ppcls_ext.predict.onnx_file import ends_in_logits, open_session, read_metadata, require_file
from ppcls_ext.predict.program_set import require_one_set
from ppcls_ext.predict.tflite_model import TfliteModel

#: The programs of which a folder that export-model wrote holds one.
PROGRAMS = ("inference.json", "inference.pdmodel")


class ExportedModel(Protocol):
    """An exported model, loaded by one of the runtimes.

    Attributes:
        metadata: its architecture, class names and preprocessing.
        batch: the batch size that the model requires; None where any size is accepted.
        image_shape: (C, H, W) of its input; where it takes any size, of what its preprocessing makes.
        ends_in_logits: whether its output still needs a softmax or, of a multi-label model, a sigmoid.
    """

    metadata: Metadata
    batch: int | None
    image_shape: list[int]
    ends_in_logits: bool

    def run(self, images: np.ndarray) -> np.ndarray:
        """Computes the output for `images: (N, C, H, W)` float32, as (N, classes) float32."""


def _shape(path: str | os.PathLike, shape: list, metadata: Metadata) -> list:
    """(C, H, W) of a network's input; H and W, where they are free, are those of the metadata.

    Raises:
        PpclsExtError: they are free and the metadata say otherwise, or the reverse.
    """
    free = [not isinstance(side, int) for side in shape[1:]]
    if metadata.dynamic_size and not all(free):
        raise PpclsExtError(
            f"{path}: the network reads images of shape {shape}, but its metadata say any size: export it again"
        )
    width, height = metadata.preprocessing.image_size
    return [shape[0], height, width] if metadata.dynamic_size else shape


class OnnxRuntimeModel:
    """An ONNX file in onnxruntime."""

    def __init__(self, path: str | os.PathLike, threads: int | None) -> None:
        require("onnxruntime")
        require_file(path)
        try:
            self.session = open_session(str(path), threads or 0)
        except Exception as error:  # onnxruntime's exceptions have no common base
            raise PpclsExtError(
                f"{path}: onnxruntime cannot load it ({one_line(error)}); expected an ONNX file"
            ) from error
        self.metadata = read_metadata(path, self.session.get_modelmeta().custom_metadata_map)
        self._input = self._only(path, "input", self.session.get_inputs(), 4)
        self._output = self._only(path, "output", self.session.get_outputs(), 2)
        batch, *shape = self._input.shape
        self.image_shape = _shape(path, shape, self.metadata)
        self.batch = batch if isinstance(batch, int) else None
        self.ends_in_logits = ends_in_logits(path, self.metadata, self._output.name)

    def run(self, images: np.ndarray) -> np.ndarray:
        """See `ExportedModel.run`."""
        try:
            (scores,) = self.session.run([self._output.name], {self._input.name: images})
        except Exception as error:  # as above
            raise PpclsExtError(f"onnxruntime cannot run the network: {one_line(error)}; export it again") from error
        return scores

    @staticmethod
    def _only(path: str | os.PathLike, kind: str, values: list[Any], axes: int) -> Any:
        """Returns the single float32 input or output with that many axes."""
        if len(values) != 1 or values[0].type != "tensor(float)" or len(values[0].shape) != axes:
            found = ", ".join(f"{value.type} {value.shape}" for value in values[:3]) or "none"
            raise PpclsExtError(
                f"{path}: the network has the {kind}s {found}: expected one, of floats with {axes} axes"
            )
        return values[0]


class OpenVinoModel:
    """An ONNX file in OpenVINO, computed in float32 unless bfloat16 is asked for."""

    def __init__(self, path: str | os.PathLike, threads: int | None, bf16: bool = False) -> None:
        openvino = import_extra("openvino")
        require_file(path)
        self.metadata = read_metadata(path)
        # without a hint OpenVINO computes in bfloat16 on CPUs that have it
        options: dict[str, Any] = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": "bf16" if bf16 else "f32",
        }
        if threads:
            options["INFERENCE_NUM_THREADS"] = threads
        try:
            self.compiled = openvino.Core().compile_model(str(path), "CPU", options)
        except Exception as error:  # OpenVINO's exceptions have no common base
            raise PpclsExtError(f"{path}: OpenVINO cannot load it ({one_line(error)})") from error
        (value,), (output,) = self.compiled.inputs, self.compiled.outputs
        shape = value.get_partial_shape()
        self.batch = None if shape[0].is_dynamic else shape[0].get_length()
        sides = ["any" if side.is_dynamic else side.get_length() for side in list(shape)[1:]]
        self.image_shape = _shape(path, sides, self.metadata)
        # OpenVINO may know an output by the names of the nodes before it, too
        name = next(iter({LOGITS, *OUTPUTS.values()} & set(output.get_names())), "")
        self.ends_in_logits = ends_in_logits(path, self.metadata, name)

    def run(self, images: np.ndarray) -> np.ndarray:
        """See `ExportedModel.run`."""
        return self.compiled([images])[0]


class PaddleModel:
    """A folder that export-model wrote, in Paddle Inference with oneDNN."""

    batch: int | None = None
    ends_in_logits = False  # export-model appends a softmax or sigmoid

    def __init__(self, path: str | os.PathLike, threads: int | None) -> None:
        inference = import_extra("paddle.inference")
        folder = Path(path)
        programs = programs_in(folder)
        if not programs:
            raise PpclsExtError(f"{path}: expected a folder with inference.json, as ppcls-ext export-model writes it")
        require_one_set(folder)
        self.metadata = read_inference_yml(folder / NAME)
        width, height = self.metadata.preprocessing.image_size
        self.image_shape = [self.metadata.preprocessing.channels, height, width]
        config = inference.Config(str(programs[0]), str(folder / "inference.pdiparams"))
        config.disable_gpu()
        config.disable_glog_info()
        config.enable_mkldnn()
        if threads:
            config.set_cpu_math_library_num_threads(threads)
        try:
            self.predictor = inference.create_predictor(config)
        except Exception as error:  # Paddle's exceptions have no common base
            raise PpclsExtError(f"{path}: Paddle Inference cannot load it ({one_line(error)[:200]})") from error

    def run(self, images: np.ndarray) -> np.ndarray:
        """See `ExportedModel.run`."""
        given = self.predictor.get_input_handle(self.predictor.get_input_names()[0])
        given.copy_from_cpu(np.ascontiguousarray(images))
        self.predictor.run()
        return self.predictor.get_output_handle(self.predictor.get_output_names()[0]).copy_to_cpu()


class Runtime(NamedTuple):
    """One runtime.

    Attributes:
        model: loads an exported model, from a path and a number of threads.
        packages: the packages it needs.
        distribution: the package of whose version its answers are.
        suffix: of the files that it alone runs; "" where it runs ONNX files or folders.
        bf16: whether it can compute in bfloat16.
    """

    model: Callable[..., ExportedModel]
    packages: tuple[str, ...]
    distribution: str
    suffix: str = ""
    bf16: bool = False


#: By name, which is also that of the extra that installs it.
RUNTIMES = {
    "onnxruntime": Runtime(OnnxRuntimeModel, ("onnxruntime",), "onnxruntime"),
    "openvino": Runtime(OpenVinoModel, ("openvino", "onnx"), "openvino", bf16=True),
    "paddle": Runtime(PaddleModel, ("paddle",), "paddlepaddle"),
    "tflite": Runtime(TfliteModel, ("ai_edge_litert",), "ai-edge-litert", ".tflite"),
    "ncnn": Runtime(NcnnModel, ("ncnn",), "ncnn", PARAM),
    "coreml": Runtime(CoreMlModel, ("coremltools", "onnx", "onnxruntime"), "coremltools", COREML),
}


def programs_in(folder: Path) -> list[Path]:
    """Returns the Paddle programs that export-model wrote to a folder, the newer format first."""
    return [folder / name for name in PROGRAMS if (folder / name).is_file()]


def is_exported(path: str | os.PathLike) -> bool:
    """Returns whether a path is that of an exported file, or of a folder that export-model wrote."""
    return str(path).lower().endswith(".onnx") or _own_runtime(path) is not None


def _own_runtime(path: str | os.PathLike) -> str | None:
    """The one runtime that runs a file or folder."""
    place = Path(path)  # without the slash that a shell puts behind a package
    own = next((name for name, one in RUNTIMES.items() if one.suffix and str(place).endswith(one.suffix)), None)
    return own or ("paddle" if programs_in(place) else None)


def runtime_for(path: str | os.PathLike, runtime: str | None = None) -> str:
    """Returns the runtime that runs a file: its own, the one that is asked for, or onnxruntime.

    Args:
        path: the file or folder.
        runtime: a key of `RUNTIMES`; None for the usual one.

    Raises:
        PpclsExtError: the runtime is unknown, or another one than the file's own.
    """
    if runtime is not None and runtime not in RUNTIMES:
        raise PpclsExtError(f"the runtime is {runtime!r}: expected {', '.join(RUNTIMES)}")
    own = _own_runtime(path)
    if runtime in (None, own):
        return own or "onnxruntime"
    if own is not None:
        raise PpclsExtError(f"{path}: the runtime {runtime} does not run it, but {own}: leave out --runtime")
    suffix = RUNTIMES[str(runtime)].suffix
    if suffix:
        raise PpclsExtError(
            f"{path}: the runtime {runtime} runs MODEL{suffix}: ppcls-ext export {path} --to {runtime} writes one"
        )
    return str(runtime)


def load(runtime: str | None, path: str | os.PathLike, threads: int | None = None, bf16: bool = False) -> ExportedModel:
    """Loads an exported model.

    Args:
        runtime: a key of `RUNTIMES`, or None; see `runtime_for`.
        path: an exported file; for "paddle" the folder that export-model wrote.
        threads: number of threads of one operation; by default the runtime chooses.
        bf16: whether to compute in bfloat16, which only OpenVINO offers.

    Raises:
        PpclsExtError: the runtime is unknown, its package is missing, or it cannot load the model.
    """
    name = runtime_for(path, runtime)
    if not bf16:
        return RUNTIMES[name].model(path, threads)
    if not RUNTIMES[name].bf16:
        raise PpclsExtError(f"bf16 is for the runtime openvino, not for {name}")
    return RUNTIMES[name].model(path, threads, bf16=True)


def installed(runtime: str) -> bool:
    """Returns whether the packages of a runtime are installed."""
    return all(importlib.util.find_spec(package) is not None for package in RUNTIMES[runtime].packages)


def with_version(runtime: str, name: str = "") -> str:
    """Returns a runtime's name (or `name`), followed by its version where its package is installed as usual."""
    try:
        version = importlib.metadata.version(RUNTIMES[runtime].distribution)
    except importlib.metadata.PackageNotFoundError:  # as for onnxruntime-gpu
        version = ""
    return f"{name or runtime} {version}".strip()
