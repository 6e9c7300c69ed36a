"""The runtimes that can run an exported model: onnxruntime, OpenVINO, ncnn and Paddle Inference.

Each runtime's package is imported when its first model is loaded.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import subprocess
import tempfile
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from ppcls_ext import cpu
from ppcls_ext.errors import PpclsExtError, one_line
from ppcls_ext.files import read_regular
from ppcls_ext.packages import import_extra, missing, require
from ppcls_ext.predict.inference_yml import NAME, read_inference_yml
from ppcls_ext.predict.metadata import LOGITS, OUTPUTS, Metadata
from ppcls_ext.predict.onnx_file import ends_in_logits, open_session, read_metadata, require_file
from ppcls_ext.predict.program_set import require_one_set

#: The files that pnnx writes for ncnn.
PARAM, BIN = "net.ncnn.param", "net.ncnn.bin"


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


class NcnnModel:
    """An ONNX file in ncnn, the runtime for phones: converted by pnnx, in float32, one image at a time."""

    batch: int | None = 1

    def __init__(self, path: str | os.PathLike, threads: int | None) -> None:
        ncnn = import_extra("ncnn")
        require_file(path)
        self.metadata = read_metadata(path)
        if self.metadata.quantization == "int8":
            raise PpclsExtError(f"{path}: ncnn cannot run this int8; give the fp32 file")
        if self.metadata.dynamic_size:
            raise PpclsExtError(f"{path}: ncnn runs one size of images; export it without --dynamic-size")
        width, height = self.metadata.preprocessing.image_size
        self.image_shape = [self.metadata.preprocessing.channels, height, width]
        self.ncnn = ncnn
        self.net = ncnn.Net()
        self.net.opt.num_threads = threads or cpu.usable_cores()
        # by default ncnn stores and computes in 16 bits where the CPU can; the answers should be the file's
        self.net.opt.use_fp16_packed = self.net.opt.use_fp16_storage = self.net.opt.use_fp16_arithmetic = False
        self.net.opt.use_bf16_storage = False
        with tempfile.TemporaryDirectory(prefix="ppcls_ext_") as folder:
            convert_to_ncnn(path, self.image_shape, Path(folder))
            if self.net.load_param(str(Path(folder, PARAM))) or self.net.load_model(str(Path(folder, BIN))):
                raise PpclsExtError(f"{path}: ncnn cannot load what pnnx made of it")
        model = import_extra("onnx").load(path, load_external_data=False)
        self.ends_in_logits = ends_in_logits(path, self.metadata, model.graph.output[0].name)

    def run(self, images: np.ndarray) -> np.ndarray:
        """See `ExportedModel.run`."""
        rows = []
        for image in images:
            with self.net.create_extractor() as extractor:
                extractor.input("in0", self.ncnn.Mat(np.ascontiguousarray(image)).clone())
                _, output = extractor.extract("out0")
                rows.append(np.array(output).ravel())
        return np.stack(rows)


class PaddleModel:
    """A folder that export-model wrote, in Paddle Inference with oneDNN."""

    batch: int | None = None
    ends_in_logits = False  # export-model appends a softmax or sigmoid

    def __init__(self, path: str | os.PathLike, threads: int | None) -> None:
        inference = import_extra("paddle.inference")
        folder = Path(path)
        programs = [folder / name for name in ("inference.json", "inference.pdmodel") if (folder / name).is_file()]
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
        model: the class that loads an exported model, from a path and a number of threads.
        packages: the packages it needs.
    """

    model: type[OnnxRuntimeModel] | type[OpenVinoModel] | type[NcnnModel] | type[PaddleModel]
    packages: tuple[str, ...]


RUNTIMES = {
    "onnxruntime": Runtime(OnnxRuntimeModel, ("onnxruntime",)),
    "openvino": Runtime(OpenVinoModel, ("openvino", "onnx")),
    "ncnn": Runtime(NcnnModel, ("ncnn", "pnnx", "onnx")),
    "paddle": Runtime(PaddleModel, ("paddle",)),
}


def load(runtime: str, path: str | os.PathLike, threads: int | None = None, bf16: bool = False) -> ExportedModel:
    """Loads an exported model.

    Args:
        runtime: a key of `RUNTIMES`.
        path: the ONNX file, for ncnn the fp32 one; for "paddle" the folder that export-model wrote.
        threads: number of threads of one operation; by default the runtime chooses.
        bf16: whether to compute in bfloat16, which only OpenVINO offers.

    Raises:
        PpclsExtError: the runtime is unknown, its package is missing, or it cannot load the model.
    """
    if runtime not in RUNTIMES:
        raise PpclsExtError(f"the runtime is {runtime!r}: expected {', '.join(RUNTIMES)}")
    if bf16:
        if runtime != "openvino":
            raise PpclsExtError(f"bf16 is for the runtime openvino, not for {runtime}")
        return OpenVinoModel(path, threads, bf16=True)
    return RUNTIMES[runtime].model(path, threads)


def installed(runtime: str) -> bool:
    """Returns whether the packages of a runtime are installed."""
    return all(importlib.util.find_spec(package) is not None for package in RUNTIMES[runtime].packages)


def with_version(runtime: str, name: str = "") -> str:
    """Returns a runtime's name (or `name`), followed by its version where its package is installed as usual."""
    try:
        version = importlib.metadata.version("paddlepaddle" if runtime == "paddle" else runtime)
    except importlib.metadata.PackageNotFoundError:  # as for onnxruntime-gpu
        version = ""
    return f"{name or runtime} {version}".strip()


def convert_to_ncnn(path: str | os.PathLike, image_shape: list[int], folder: Path) -> None:
    """Writes ncnn's two files, `PARAM` and `BIN`, in float32.

    Args:
        path: the ONNX file.
        image_shape: (C, H, W) of its input.
        folder: where the files go.

    Raises:
        PpclsExtError: pnnx is missing, or does not convert the file.
    """
    found = importlib.util.find_spec("pnnx")  # importing it would load torch
    if found is None or found.origin is None:
        raise PpclsExtError(missing("pnnx"))
    (copy := folder / "net.onnx").write_bytes(read_regular(path, 1 << 31))  # pnnx writes beside its input
    shape = json.dumps([1, *image_shape], separators=(",", ":"))
    done = subprocess.run(
        [str(Path(found.origin).parent / "pnnx"), copy.name, f"inputshape={shape}", "fp16=0"],
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
    )
    if done.returncode or not (folder / PARAM).is_file():
        said = done.stdout.decode(errors="replace").strip().splitlines() or [f"exit code {done.returncode}"]
        raise PpclsExtError(f"{path}: pnnx does not convert it ({said[-1][:200]}); give the fp32 file of opset 17")
