"""fp16: weights stored in half the space; a Cast behind each gives the runtime fp32, or its own half precision."""

from __future__ import annotations

import json
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, helper

from ppcls_ext.errors import PpclsExtError
from ppcls_ext.export.comparison import relative_difference
from ppcls_ext.export.graph import Graph, run_piece
from ppcls_ext.predict.answers import scores_from
from ppcls_ext.predict.metadata import Metadata
from ppcls_ext.predict.onnx_file import logits_name

#: Of the logits, relative to the largest; rounding to 11 bits leaves about 1e-3.
TOLERANCE = 0.02
SMALLEST_STORED = 64  # elements; the Cast of a smaller constant takes more space than it saves


@dataclass(frozen=True)
class Float16Report:
    """Describes the fp16 form of a model.

    Args:
        difference: between the fp16 and the fp32 form's logits, as a part of the largest.
        change: the largest difference of a score.
        size: of the file, as a part of the fp32 file's.
    """

    difference: float
    change: float
    size: float

    def __str__(self) -> str:
        return (
            f"fp16    {self.size:.2f} of fp32's size, from whose logits it differs by {self.difference:.1e}, "
            f"from whose scores by {self.change:.1e}"
        )


def reduce_to_float16(model: onnx.ModelProto) -> tuple[onnx.ModelProto, Float16Report]:
    """Returns the fp16 form of a classifier, compared with it on random input.

    Raises:
        PpclsExtError: a weight is too large for fp16, or the outputs differ by more than `TOLERANCE`.
    """
    half = store_as_float16(model)
    metadata = Metadata.from_properties({entry.key: entry.value for entry in model.metadata_props})
    got, expected = _logits(half, metadata), _logits(model, metadata)
    difference = relative_difference(got, expected)
    if not difference <= TOLERANCE:
        raise PpclsExtError(
            f"fp16 changes the logits by {difference:.1e} of the largest, allowed is {TOLERANCE:g}; nothing was "
            "written: keep fp32"
        )
    change = float(np.abs(scores_from(got, metadata.task) - scores_from(expected, metadata.task)).max())
    return half, Float16Report(difference, change, half.ByteSize() / model.ByteSize())


def _logits(model: onnx.ModelProto, metadata: Metadata) -> np.ndarray:
    graph = Graph(model)
    value = logits_name(model)
    width, height = metadata.preprocessing.image_size  # which the graph's input may leave free
    shape = (4, metadata.preprocessing.channels, height, width)
    noise = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
    runs = run_piece(graph.piece({graph.input: TensorProto.FLOAT}, [value]), {graph.input: noise}, [value])
    return np.concatenate([logits for (logits,) in runs])


def store_as_float16(model: onnx.ModelProto) -> onnx.ModelProto:
    """Returns a copy whose fp32 constants are rounded to fp16; its metadata have the key "quantization".

    Raises:
        PpclsExtError: a weight is too large for fp16, which ends at 65504.
    """
    graph = Graph(model)
    graph.unshare_constants()
    casts = []
    for name, array in list(graph.constants.items()):
        if array.dtype != np.float32 or array.size < SMALLEST_STORED:
            continue
        largest = float(np.abs(array).max())
        if largest > float(np.finfo(np.float16).max):
            raise PpclsExtError(f"{name} holds {largest:.3g}, and fp16 ends at 65504: keep fp32")
        graph.constants[f"{name}.half"] = array.astype(np.float16)
        del graph.constants[name]
        casts.append(helper.make_node("Cast", [f"{name}.half"], [name], name=f"{name}.cast", to=TensorProto.FLOAT))
    graph.nodes[:0] = casts
    half = graph.to_model()
    half.metadata_props.add(key="quantization", value=json.dumps({"type": "fp16"}))
    return half
