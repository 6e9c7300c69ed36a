"""The files that `bench` times for a model's name: random weights, each form of it as export-onnx writes it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import paddle
from paddle import Tensor

from ppcls_ext.data.image_rule import Preprocessing
from ppcls_ext.export import convert, simplify
from ppcls_ext.export.comparison import branch_outputs
from ppcls_ext.export.float16 import reduce_to_float16
from ppcls_ext.export.int8 import FEWEST, quantize
from ppcls_ext.export.pipeline import Reduce, export_onnx
from ppcls_ext.files import atomic_write
from ppcls_ext.models.factories import build
from ppcls_ext.predict.metadata import Metadata
from ppcls_ext.reparam.reparameterizable import Reparameterizable

FORMS = ("unfused", "fused", "int8", "fp16")
OPSET = 20


def write_forms(name: str, forms: Sequence[str], px: int, folder: Path) -> dict[str, Path]:
    """Writes the forms of a model for pictures of px × px.

    Returns:
        The file of each form. Random weights take the time of trained ones; the int8 form's answers mean nothing.
    """
    paddle.seed(0)
    model = build(name)
    rule = Preprocessing(resize_short=px * 8 // 7, crop=(px, px))
    properties = Metadata(name, rule).to_properties()
    noise = np.random.default_rng(0).standard_normal((FEWEST, 3, px, px), dtype=np.float32)
    reductions: dict[str, Reduce | None] = {
        "fused": None,
        "int8": partial(quantize, pictures=noise, allow=True),
        "fp16": reduce_to_float16,
    }
    files = {}
    for form in forms:
        files[form] = folder / f"{name}_{form}_{px}.onnx"
        if form == "unfused":
            _write_unfused(name, properties, px, files[form])
        else:
            shape = (3, px, px)
            reduce = reductions[form]
            export_onnx(model, files[form], image_shape=shape, opset=OPSET, metadata=properties, reduce=reduce)
    return files


def _write_unfused(name: str, properties: dict[str, str], px: int, path: Path) -> None:
    """The training form, in eval mode, as the sum of its branches; nobody would deploy it."""
    model = build(name)
    model.eval()
    for layer in model.sublayers(include_self=True):
        if isinstance(layer, Reparameterizable):
            layer.forward = partial(_sum_of_branches, layer)
    raw = convert.convert(convert.Network(model, softmax=True), (None, 3, px, px), OPSET)
    simplify.set_properties(raw, properties)
    with atomic_write(path) as file:
        file.write(raw.SerializeToString())


def _sum_of_branches(layer: Reparameterizable, x: Tensor) -> Tensor:
    outputs = branch_outputs(layer, x)
    return sum(outputs[1:], outputs[0])
