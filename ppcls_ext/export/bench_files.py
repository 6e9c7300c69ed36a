"""The files that `bench` times for a model's name: random weights, in each form that export-onnx writes."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import paddle
from paddle import nn

from ppcls_ext.data.image_rule import Preprocessing, size_text
from ppcls_ext.export import convert, simplify
from ppcls_ext.export.float16 import reduce_to_float16
from ppcls_ext.export.int8 import FEWEST, quantize
from ppcls_ext.export.opset import GELU_OPSET
from ppcls_ext.export.pipeline import Reduce, export_onnx
from ppcls_ext.files import atomic_write
from ppcls_ext.models.factories import build
from ppcls_ext.predict.metadata import PROBABILITIES, Metadata
from ppcls_ext.reparam.fuse import reparameterizable_layers

FORMS = ("unfused", "fused", "int8", "fp16")
OPSET = GELU_OPSET


def write_forms(name: str, forms: Sequence[str], size: tuple[int, int], folder: Path) -> dict[str, Path]:
    """Writes the forms of a model for images of a height and width, px.

    Returns:
        The file of each form. Random weights take the time of trained ones; the int8 form's answers mean nothing.
    """
    paddle.seed(0)
    model = build(name)
    height, width = size
    rule = Preprocessing(resize_short=max(size) * 8 // 7, crop=(width, height))
    properties = Metadata(name, rule).to_properties()
    noise = np.random.default_rng(0).standard_normal((FEWEST, 3, height, width), dtype=np.float32)
    reductions: dict[str, Reduce | None] = {
        "fused": None,
        "int8": partial(quantize, images=noise, allow=True),
        "fp16": reduce_to_float16,
    }
    files = {}
    for form in forms:
        files[form] = folder / f"{name}_{form}_{size_text(*size)}.onnx"
        if form == "unfused":
            _write_unfused(copy.deepcopy(model), properties, size, files[form])
        else:
            shape = (3, height, width)
            reduce = reductions[form]
            export_onnx(model, files[form], image_shape=shape, opset=OPSET, metadata=properties, reduce=reduce)
    return files


def _write_unfused(model: nn.Layer, properties: dict[str, str], size: tuple[int, int], path: Path) -> None:
    """Writes the training form, in eval mode, as the sum of its branches; nobody would deploy it."""
    model.eval()
    for layer in reparameterizable_layers(model):
        layer.by_definition = True
    raw = convert.convert(convert.InferenceModel(model, PROBABILITIES), (None, 3, *size), OPSET)
    simplify.set_properties(raw, properties)
    with atomic_write(path) as file:
        file.write(raw.SerializeToString())
