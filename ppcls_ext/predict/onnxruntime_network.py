"""An exported ONNX file in onnxruntime."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from ppcls_ext.errors import PpclsExtError, one_line
from ppcls_ext.packages import require
from ppcls_ext.predict.onnx_file import read_metadata, require_file
from ppcls_ext.predict.onnx_session import open_session


class OnnxRuntimeNetwork:
    """See `ppcls_ext.predict.runtimes.Network`."""

    def __init__(self, path: str | os.PathLike, threads: int | None) -> None:
        require("onnxruntime")
        require_file(path)
        try:
            self.session = open_session(str(path), threads or 0)
        except Exception as error:  # onnxruntime's kinds have no common base
            raise PpclsExtError(
                f"{path}: onnxruntime cannot load it ({one_line(error)}); expected an ONNX file"
            ) from error
        self.metadata = read_metadata(path, self.session.get_modelmeta().custom_metadata_map)
        self.input, self.output = self._only_ones(path)
        batch, *self.image_shape = self.input.shape
        self.batch = batch if isinstance(batch, int) else None
        self.ends_in_logits = self.output.name == "logits"

    def run(self, images: np.ndarray) -> np.ndarray:
        """`images: (N, 3, H, W)` float32 → (N, classes) float32."""
        try:
            (scores,) = self.session.run([self.output.name], {self.input.name: images})
        except Exception as error:  # as above
            raise PpclsExtError(f"onnxruntime cannot run the network: {one_line(error)}; export it again") from error
        return scores

    def _only_ones(self, path: str | os.PathLike) -> tuple[Any, Any]:
        """The input and the output: of pictures in float32, and of one row of numbers a picture."""
        found = []
        for what, ends, axes in (("input", self.session.get_inputs(), 4), ("output", self.session.get_outputs(), 2)):
            told = ", ".join(f"{end.type} {end.shape}" for end in ends[:3]) or "none"
            if len(ends) != 1 or ends[0].type != "tensor(float)" or len(ends[0].shape) != axes:
                raise PpclsExtError(
                    f"{path}: the network has the {what}s {told}: expected one, of floats with {axes} axes"
                )
            found.append(ends[0])
        return found[0], found[1]


def load(path: str | os.PathLike, threads: int | None, bf16: bool) -> OnnxRuntimeNetwork:
    """Loads a file; bf16 is not for it.

    Raises:
        PpclsExtError: the file is missing, damaged, or not exported by this project.
    """
    return OnnxRuntimeNetwork(path, threads)
