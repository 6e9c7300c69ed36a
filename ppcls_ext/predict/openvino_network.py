"""An exported ONNX file in OpenVINO."""

from __future__ import annotations

import os

import numpy as np

from ppcls_ext.errors import PpclsExtError, one_line
from ppcls_ext.packages import import_extra
from ppcls_ext.predict.onnx_file import read_metadata, require_file


class OpenVinoNetwork:
    """See `ppcls_ext.predict.runtimes.Network`; computes in fp32 unless it is told bf16."""

    def __init__(self, path: str | os.PathLike, threads: int | None, bf16: bool) -> None:
        openvino = import_extra("openvino")
        require_file(path)
        self.metadata = read_metadata(path)
        # OpenVINO takes bf16 by itself on CPUs that have it
        options = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "bf16" if bf16 else "f32"}
        if threads:
            options["INFERENCE_NUM_THREADS"] = threads
        try:
            self.compiled = openvino.Core().compile_model(str(path), "CPU", options)
        except Exception as error:  # OpenVINO's kinds have no common base
            raise PpclsExtError(f"{path}: OpenVINO cannot load it ({one_line(error)})") from error
        (value,), (output,) = self.compiled.inputs, self.compiled.outputs
        shape = value.get_partial_shape()
        self.batch = None if shape[0].is_dynamic else shape[0].get_length()
        self.image_shape = [shape[axis].get_length() for axis in range(1, 4)]
        self.ends_in_logits = "logits" in output.get_names()

    def run(self, images: np.ndarray) -> np.ndarray:
        """`images: (N, 3, H, W)` float32 → (N, classes) float32."""
        return self.compiled([images])[0]


def load(path: str | os.PathLike, threads: int | None, bf16: bool) -> OpenVinoNetwork:
    """Loads a file.

    Raises:
        PpclsExtError: the file is missing, damaged, or not exported by this project.
    """
    return OpenVinoNetwork(path, threads, bf16)
