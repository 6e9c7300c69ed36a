"""The verified export of any classifier from Python, without a configuration."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ppcls_ext.data.image_input import ImageLike, network_input
from ppcls_ext.data.image_rule import Preprocessing
from ppcls_ext.errors import PpclsExtError
from ppcls_ext.export.pipeline import DEFAULT_OPSET, ExportReport
from ppcls_ext.export.pipeline import export_onnx as export
from ppcls_ext.predict.metadata import Metadata

if TYPE_CHECKING:
    from paddle import nn

#: Side before the crop, relative to the crop: ImageNet's usual 256 : 224.
MARGIN = 256 / 224
DEFAULT_SIZE = 224  # px


def export_onnx(
    model: nn.Layer,
    path: str | Path,
    *,
    size: int | None = None,
    class_names: Sequence[str] | None = None,
    preprocessing: Preprocessing | Mapping[str, Any] | None = None,
    samples: Sequence[ImageLike] = (),
    opset: int = DEFAULT_OPSET,
    batch: int | None = None,
    softmax: bool = True,
) -> ExportReport:
    """See `ppcls_ext.export_onnx`."""
    rule = _rule(size, preprocessing)
    if isinstance(class_names, str):
        raise PpclsExtError(f"class_names is {class_names!r}: expected a list of names, one a class")
    width, height = rule.image_size
    names = None if class_names is None else tuple(map(str, class_names))
    return export(
        model,
        path,
        image_shape=(3, height, width),
        opset=opset,
        batch=batch,
        softmax=softmax,
        metadata=Metadata(getattr(model, "arch", type(model).__name__), rule, names).to_properties(),
        samples=np.stack([network_input(picture, rule) for picture in samples]) if len(samples) else None,
    )


def _rule(size: int | None, preprocessing: Preprocessing | Mapping[str, Any] | None) -> Preprocessing:
    """Returns ImageNet's rule at `size` px, with the fields of `preprocessing` instead of its own."""
    if isinstance(preprocessing, Preprocessing):
        if size is not None and preprocessing.image_size != (size, size):
            raise PpclsExtError(f"size is {size} px, and preprocessing makes pictures of {preprocessing.image_size} px")
        return preprocessing
    if size is None:
        size = DEFAULT_SIZE
    if type(size) is not int or size < 1:
        raise PpclsExtError(f"size is {size!r}: expected a whole number of px")
    fields = {"resize_short": round(size * MARGIN), "crop": (size, size), **(preprocessing or {})}
    known = [field.name for field in dataclasses.fields(Preprocessing)]
    unknown = sorted(set(fields) - set(known))
    if unknown:
        raise PpclsExtError(f"preprocessing has no {', '.join(unknown)}: expected {', '.join(known)}")
    values: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()
    }
    return Preprocessing(**values)
