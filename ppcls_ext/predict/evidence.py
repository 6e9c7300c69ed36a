"""What an exported file's head makes of the last maps: by how much each map moves each class's logit."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ppcls_ext.errors import PpclsExtError, one_line
from ppcls_ext.packages import require
from ppcls_ext.predict.onnx_file import logits_name
from ppcls_ext.predict.onnx_session import open_session

if TYPE_CHECKING:
    import onnx

POOLING = "GlobalAveragePool"
#: Operators that add no curvature: a head of these alone is linear.
LINEAR = frozenset(("Flatten", "Reshape", "Squeeze", "Identity", "Conv", "Gemm", "MatMul", "Add", "Constant"))
#: How far a mean is moved to measure a derivative behind a curved head, relative to the largest mean.
STEP = 1e-2


class Evidence(NamedTuple):
    """For one picture and one class.

    Attributes:
        features: (C, H, W), the last maps.
        derivative: (C,), of the class's logit by the mean of each map.
        is_exact: whether the head is linear, so that the derivatives explain the whole logit but its bias.
    """

    features: np.ndarray
    derivative: np.ndarray
    is_exact: bool


class EvidenceReader:
    """The two halves of an exported file: up to the last maps, and from their means to the logits.

    Args:
        path: a file of `export-onnx`, not quantized.

    Raises:
        PpclsExtError: onnx or onnxruntime is missing, or the file is damaged, quantized, or has another ending.

    Attributes:
        is_linear: whether the head is linear.
    """

    def __init__(self, path: str | os.PathLike) -> None:
        require("onnx", "onnxruntime")
        import onnx

        try:
            model = onnx.shape_inference.infer_shapes(onnx.load(os.fspath(path)))
        except Exception as error:  # onnx's and protobuf's kinds have no common base
            raise PpclsExtError(f"{path}: cannot be read ({one_line(error)}); expected an ONNX file") from error
        pooling = [node for node in model.graph.node if node.op_type == POOLING]
        quantized = any(node.op_type == "DequantizeLinear" for node in model.graph.node)
        if not pooling or quantized:
            what = "is quantized" if quantized else f"has no {POOLING} behind its last maps"
            raise PpclsExtError(f"{path} {what}: explain needs a float file that export-onnx wrote")
        pool = pooling[-1]
        (image,) = model.graph.input
        self._image = image.name
        self._means = pool.output[0]
        try:
            body = _part(model, image.name, pool.input[0])
            head = _part(model, self._means, logits_name(model))
            self._body, self._head = open_session(body), open_session(head)
        except Exception as error:  # as above
            raise PpclsExtError(f"{path}: cannot be cut before its head ({one_line(error)})") from error
        self.is_linear = LINEAR.issuperset(node.op_type for node in head.graph.node)

    def _head_of(self, means: np.ndarray) -> np.ndarray:
        (logits,) = self._head.run(None, {self._means: means[:, :, None, None].astype(np.float32)})
        return logits.astype(np.float64)

    def read(self, image: np.ndarray, class_index: int) -> Evidence:
        """The evidence in one picture for one class.

        Args:
            image: (3, H, W) float32, prepared.
            class_index: of the class.
        """
        (features,) = self._body.run(None, {self._image: image[None]})
        means = features[0].mean(axis=(1, 2), dtype=np.float64)
        step = (1.0 if self.is_linear else STEP) * max(float(np.abs(means).max()), 1e-6)
        moves = step * np.eye(len(means))
        derivative = (self._head_of(means + moves) - self._head_of(means - moves))[:, class_index] / (2 * step)
        return Evidence(features[0], derivative, self.is_linear)


def _part(model: onnx.ModelProto, start: str, end: str) -> onnx.ModelProto:
    """The part of a model between two tensors, for any batch, also where the whole has a fixed one."""
    import onnx

    part = onnx.utils.Extractor(model).extract_model([start], [end])
    for value in (*part.graph.input, *part.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
    return part
