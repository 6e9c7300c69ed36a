"""An exported ONNX file in onnxruntime."""

from __future__ import annotations

import os

import numpy as np

from ppcls_ext.errors import PpclsExtError, one_line
from ppcls_ext.packages import import_extra
from ppcls_ext.predict.onnx_file import read_metadata, require_file


class OnnxRuntimeNetwork:
    """See `ppcls_ext.predict.runtimes.Network`."""

    def __init__(self, path: str | os.PathLike, threads: int | None) -> None:
        onnxruntime = import_extra("onnxruntime")
        require_file(path)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or 0
        options.log_severity_level = 4  # failures come as exceptions
        try:
            self.session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's kinds have no common base
            raise PpclsExtError(
                f"{path}: onnxruntime cannot load it ({one_line(error)}); expected an ONNX file"
            ) from error
        self.metadata = read_metadata(path, self.session.get_modelmeta().custom_metadata_map)
        (self.input,), (self.output,) = self.session.get_inputs(), self.session.get_outputs()
        batch, *self.image_shape = self.input.shape
        self.batch = batch if isinstance(batch, int) else None
        self.ends_in_logits = self.output.name == "logits"

    def run(self, images: np.ndarray) -> np.ndarray:
        """`images: (N, 3, H, W)` float32 → (N, classes) float32."""
        (scores,) = self.session.run([self.output.name], {self.input.name: images})
        return scores


def load(path: str | os.PathLike, threads: int | None, bf16: bool) -> OnnxRuntimeNetwork:
    """Loads a file; bf16 is not for it.

    Raises:
        PpclsExtError: the file is missing, damaged, or not exported by this project.
    """
    return OnnxRuntimeNetwork(path, threads)
