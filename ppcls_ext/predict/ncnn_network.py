"""An exported ONNX file in ncnn, the runtime of phones: converted by pnnx, in fp32 and for one picture at a time."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import tempfile
from pathlib import Path

import numpy as np

from ppcls_ext.errors import PpclsExtError
from ppcls_ext.files import read_regular
from ppcls_ext.packages import import_extra, missing
from ppcls_ext.predict.onnx_file import read_metadata, require_file

PARAM, BIN = "net.ncnn.param", "net.ncnn.bin"


class NcnnNetwork:
    """See `ppcls_ext.predict.runtimes.Network`."""

    batch = 1

    def __init__(self, path: str | os.PathLike, threads: int | None) -> None:
        ncnn = import_extra("ncnn")
        require_file(path)
        self.metadata = read_metadata(path)
        if self.metadata.quantization == "int8":
            raise PpclsExtError(f"{path}: ncnn cannot run this int8; give the fp32 file")
        width, height = self.metadata.preprocessing.image_size
        self.image_shape = [3, height, width]
        self.ncnn = ncnn
        self.net = ncnn.Net()
        self.net.opt.num_threads = threads or os.cpu_count() or 1
        # as exact as the file: by itself ncnn stores and computes in 16 bits where the CPU can
        self.net.opt.use_fp16_packed = self.net.opt.use_fp16_storage = self.net.opt.use_fp16_arithmetic = False
        self.net.opt.use_bf16_storage = False
        with tempfile.TemporaryDirectory(prefix="ppcls_ext_") as folder:
            convert(path, self.image_shape, Path(folder))
            if self.net.load_param(str(Path(folder, PARAM))) or self.net.load_model(str(Path(folder, BIN))):
                raise PpclsExtError(f"{path}: ncnn cannot load what pnnx made of it")
        self.ends_in_logits = _ends_in_logits(path)

    def run(self, images: np.ndarray) -> np.ndarray:
        """`images: (N, 3, H, W)` float32 → (N, classes) float32."""
        rows = []
        for image in images:
            with self.net.create_extractor() as extractor:
                extractor.input("in0", self.ncnn.Mat(np.ascontiguousarray(image)).clone())
                _, output = extractor.extract("out0")
                rows.append(np.array(output).ravel())
        return np.stack(rows)


def convert(path: str | os.PathLike, image_shape: list[int], folder: Path) -> None:
    """Writes ncnn's two files, `PARAM` and `BIN`, in fp32.

    Raises:
        PpclsExtError: pnnx is missing, or does not convert the file.
    """
    found = importlib.util.find_spec("pnnx")  # importing it would load torch
    if found is None or found.origin is None:
        raise PpclsExtError(missing("pnnx"))
    (copy := folder / "net.onnx").write_bytes(read_regular(path, 1 << 31))  # pnnx writes beside the file
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


def _ends_in_logits(path: str | os.PathLike) -> bool:
    model = import_extra("onnx").load(path, load_external_data=False)
    return model.graph.output[0].name == "logits"


def load(path: str | os.PathLike, threads: int | None, bf16: bool) -> NcnnNetwork:
    """Loads a file; bf16 is not for it.

    Raises:
        PpclsExtError: the file is missing, damaged, not exported by this project, or not in fp32.
    """
    return NcnnNetwork(path, threads)
