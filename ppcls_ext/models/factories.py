"""The factories of all models, and the model for a weights file; they load Paddle and PaddleClas's base class."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from paddle import nn

from ppcls_ext.errors import PpclsExtError, one_of
from ppcls_ext.models.backbone import Backbone
from ppcls_ext.models.factory import Factory
from ppcls_ext.models.table import MODELS
from ppcls_ext.weights.files import read_weight_file
from ppcls_ext.weights.loading import LoadReport, channels_of, load_weights, stem_kernels
from ppcls_ext.weights.naming import to_model_names
from ppcls_ext.weights.published import fetch

#: name → factory, e.g. `FACTORIES["RepVGG_B1g4"](class_num=10)`.
FACTORIES: dict[str, Factory] = {
    name: importlib.import_module(f"ppcls_ext.models.{model.family}").FACTORIES[name] for name, model in MODELS.items()
}


def build(name: str, **kwargs: Any) -> Backbone:
    """See `ppcls_ext.build`."""
    require_name(name)
    return FACTORIES[name](**kwargs)


def require_name(name: str) -> None:
    """Raises PpclsExtError where no model has this name."""
    if name not in FACTORIES:
        raise PpclsExtError(f"no model is called {name!r}: expected one of {one_of(name, FACTORIES)}")


def other_form(arch: str, arguments: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """The arguments of unfused weights' training form, where a model is asked for in another one; empty elsewhere.

    Args:
        arch: the factory's name.
        arguments: of the factory.
        names: of the weights' tensors.
    """
    form = FACTORIES[arch].net.form_of(names)  # type: ignore[attr-defined]
    asked = {name: arguments[name] for name in form if arguments.get(name) is not None}
    return form if any(form[name] != value for name, value in asked.items()) else {}


def load_model(source: str | Path, arch: str, class_num: int | None = None) -> tuple[nn.Layer, LoadReport]:
    """The model that a weights file is for: fused or not, with the file's numbers of classes and of image channels.

    Args:
        source: see `load_weights`; or "published", or an address.
        arch: the factory's name.
        class_num: classes of the model; the file's where None. Where the file's number differs, the head starts afresh.

    Raises:
        PpclsExtError: unknown architecture, or the file does not fit it.
    """
    weights = read_weight_file(fetch(source, arch))
    require_name(arch)
    form = FACTORIES[arch].net.form_of(weights.tensors)  # type: ignore[attr-defined]
    model = build(arch, fused=weights.is_fused, **form)
    in_file, channels = _classes_and_channels(weights.tensors, model)
    if (class_num or in_file or 1000) != 1000 or channels != model.in_channels:
        classes = class_num or in_file or 1000
        model = build(arch, fused=weights.is_fused, class_num=classes, in_channels=channels, **form)
    return model, load_weights(model, weights, allow_other_classes=class_num not in (None, in_file))


def _classes_and_channels(arrays: dict[str, np.ndarray], model: Backbone) -> tuple[int | None, int]:
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    named = to_model_names(arrays, expected, model.timm_names, paddle_layout=True).tensors
    bias = named.get(f"{model.classifier}.bias")
    channels = channels_of(named, stem_kernels(model)) or model.in_channels
    return None if bias is None else int(bias.size), channels
