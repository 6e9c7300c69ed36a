"""The model that a configuration describes, and what there is to say about it."""

from __future__ import annotations

import copy
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ppcls_ext.config.weights import find_weights
from ppcls_ext.data.image_rule import rule_from_transforms
from ppcls_ext.data.lists import read_class_names
from ppcls_ext.errors import PpclsExtError
from ppcls_ext.models.table import MODELS
from ppcls_ext.predict.metadata import Metadata

if TYPE_CHECKING:
    from paddle import nn

logger = logging.getLogger("ppcls_ext")


def describe(config: dict) -> Metadata:
    """What an ONNX file says about the model of this configuration.

    The preprocessing is `Infer.transforms`, or else that of the evaluation dataset.

    Raises:
        PpclsExtError: there are no transforms, or some that cannot be described; or damaged class names.
    """
    infer = read_section(config, "Infer")
    transforms = infer.get("transforms")
    if not transforms:
        dataset = ((read_section(config, "DataLoader").get("Eval") or {}).get("dataset")) or {}
        # PaddleClas's datasets put the channels first themselves
        transforms = [*(dataset.get("transform_ops") or []), "ToCHWImage"]
    if not isinstance(transforms, list) or len(transforms) < 2:
        raise PpclsExtError("the configuration has no Infer.transforms, which say how pictures are prepared")
    return Metadata(_architecture(config), rule_from_transforms(transforms), _class_names(infer))


def build(config: dict) -> nn.Layer:
    """The model of this configuration with its weights; without any, they are random, which is logged.

    Raises:
        PpclsExtError: the architecture is not this project's, or the weights do not fit it exactly.
    """
    from ppcls_ext.models.factories import build as build_model
    from ppcls_ext.weights.loading import load_weights
    from ppcls_ext.weights.published import fetch

    settings = copy.deepcopy(read_section(config, "Arch"))
    name = _architecture(config)
    # what PaddleClas takes for itself before it calls the factory
    for field in ("name", "use_sync_bn", "infer_add_softmax"):
        settings.pop(field, None)
    pretrained = settings.pop("pretrained", None)
    weights = read_section(config, "Global").get("pretrained_model") or pretrained
    model = build_model(name, **settings)
    if weights:
        path = fetch(weights, name)
        load_weights(model, path if path != weights else find_weights(weights, config, "infer"))
    else:
        logger.warning("no Global.pretrained_model: the weights are random")
    return model


def _architecture(config: dict) -> str:
    name = read_section(config, "Arch").get("name")
    if name not in MODELS:
        raise PpclsExtError(f"Arch.name is {name!r}: expected one of {', '.join(MODELS)}")
    return name


def read_section(config: dict, name: str) -> dict[str, Any]:
    """The section called `name`; empty where there is none."""
    section = config.get(name) or {}
    if not isinstance(section, dict):
        raise PpclsExtError(f"the configuration's {name} is {section!r}: expected a section with fields")
    return section


def _class_names(infer: dict) -> tuple[str, ...] | None:
    """The names in `Infer.PostProcess`'s file; None, which is logged, where there is no such file."""
    post_process = infer.get("PostProcess") or {}
    file = post_process.get("class_id_map_file")
    if not file:
        return None
    from ppcls_ext.hosts.paddleclas.locate import activate

    # PaddleClas's own configurations name a file inside PaddleClas
    for path in (Path(file), activate().path / file):
        if path.exists():
            return read_class_names(path, post_process.get("delimiter") or " ")
    logger.warning("no %s (Infer.PostProcess.class_id_map_file): the classes have no names", file)
    return None
