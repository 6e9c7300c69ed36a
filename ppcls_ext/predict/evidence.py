"""The evidence for a class in a network's last feature maps: how much each map moves the class's logit."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ppcls_ext.errors import PpclsExtError, one_line
from ppcls_ext.packages import require
from ppcls_ext.predict.onnx_file import logits_name, open_session

if TYPE_CHECKING:
    import onnx

POOLING = "GlobalAveragePool"
#: Linear operators: a head that consists of these alone is linear.
LINEAR = frozenset(("Flatten", "Reshape", "Squeeze", "Identity", "Conv", "Gemm", "MatMul", "Add", "Constant"))
#: Step of the difference quotient for a head that is not linear, relative to the largest mean.
STEP = 1e-2


class Halves(NamedTuple):
    """A network, cut before its head.

    Attributes:
        body: images (N, 3, H, W) float32 → the last feature maps (N, C, h, w).
        head: the maps' means (N, C, 1, 1) float32 → logits (N, classes).
        head_is_linear: whether the logits are a linear function of the means.
    """

    body: Callable[[np.ndarray], np.ndarray]
    head: Callable[[np.ndarray], np.ndarray]
    head_is_linear: bool


class Evidence(NamedTuple):
    """The evidence in one image for one class.

    Attributes:
        features: (C, H, W), the last feature maps.
        logits: (classes,).
        class_index: index of the class.
        derivative: (C,), the derivative of the class's logit with respect to the mean of each map.
        is_exact: whether the head is linear, so that the derivatives explain the whole logit except its bias.
    """

    features: np.ndarray
    logits: np.ndarray
    class_index: int
    derivative: np.ndarray
    is_exact: bool


def read_evidence(net: Halves, image: np.ndarray, class_index: int | None = None) -> Evidence:
    """Computes the evidence in one image for one class, by default the one with the largest logit; see `read_each`."""
    (evidence,) = read_each(net, image, lambda logits: [int(logits.argmax()) if class_index is None else class_index])
    return evidence


def read_each(net: Halves, image: np.ndarray, choose: Callable[[np.ndarray], Sequence[int]]) -> list[Evidence]:
    """Computes the evidence in one image for several classes.

    Args:
        net: the halves of a file (see `split_file`) or of a model.
        image: (3, H, W) float32, the network's input.
        choose: called with the logits (classes,); returns the indices of the classes.

    Returns:
        The evidence for each of the chosen classes, in their order.

    Raises:
        PpclsExtError: a class does not exist, or the logits hold NaN or infinity.
    """
    (features,) = net.body(image[None])
    means = features.mean(axis=(1, 2), dtype=np.float64)
    logits = _logits(net, means[None])[0]
    if not np.isfinite(logits).all():
        raise PpclsExtError("the network's outputs hold NaN or infinity: train or export it again")
    indices = choose(logits)
    for index in indices:
        if not 0 <= index < len(logits):
            raise PpclsExtError(f"there is no class {index}: the network has the classes 0 to {len(logits) - 1}")
    if not indices:
        return []
    step = (1.0 if net.head_is_linear else STEP) * max(float(np.abs(means).max()), 1e-6)
    moves = step * np.eye(len(means))
    derivatives = (_logits(net, means + moves) - _logits(net, means - moves)) / (2 * step)
    return [Evidence(features, logits, index, derivatives[:, index], net.head_is_linear) for index in indices]


def split_file(path: str | os.PathLike) -> Halves:
    """Cuts an exported file before its head.

    Args:
        path: a file that `export-onnx` wrote, not quantized.

    Raises:
        PpclsExtError: onnx or onnxruntime is missing, or the file is damaged, quantized, or has another ending.
    """
    require("onnx", "onnxruntime")
    import onnx

    try:
        model = onnx.shape_inference.infer_shapes(onnx.load(os.fspath(path)))
    except Exception as error:  # onnx's and protobuf's exceptions have no common base
        raise PpclsExtError(f"{path}: cannot be read ({one_line(error)}); expected an ONNX file") from error
    pooling = [node for node in model.graph.node if node.op_type == POOLING]
    quantized = any(node.op_type == "DequantizeLinear" for node in model.graph.node)
    if not pooling or quantized:
        what = "is quantized" if quantized else f"has no {POOLING} behind its last maps"
        raise PpclsExtError(f"{path} {what}: explain needs a float file that export-onnx wrote")
    (image,) = model.graph.input
    pool = pooling[-1]
    try:
        body = _part(model, image.name, pool.input[0])
        head = _part(model, pool.output[0], logits_name(model))
        halves = _runner(body), _runner(head)
    except Exception as error:  # as above
        raise PpclsExtError(f"{path}: cannot be cut before its head ({one_line(error)})") from error
    return Halves(*halves, LINEAR.issuperset(node.op_type for node in head.graph.node))


def _logits(net: Halves, means: np.ndarray) -> np.ndarray:
    return net.head(means[:, :, None, None].astype(np.float32)).astype(np.float64)


def _runner(part: onnx.ModelProto) -> Callable[[np.ndarray], np.ndarray]:
    session, name = open_session(part), part.graph.input[0].name
    return lambda values: session.run(None, {name: values})[0]


def _part(model: onnx.ModelProto, start: str, end: str) -> onnx.ModelProto:
    """Returns the part of a model between two tensors, for any batch size, even where the model has a fixed one."""
    import onnx

    part = onnx.utils.Extractor(model).extract_model([start], [end])
    for value in (*part.graph.input, *part.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
    return part
