"""The weights to begin with: downloaded where they are remote, unfused where training needs it."""

from __future__ import annotations

import logging

from ppcls_ext.checkpoints.atomic_set import intact
from ppcls_ext.configuration.fields import is_ours
from ppcls_ext.configuration.places import existing_file
from ppcls_ext.runs.trained_with import class_count
from ppcls_ext.training.settings import CALIBRATION_PICTURES
from ppcls_ext.weights.fetch import fetch, is_remote
from ppcls_ext.weights.files import read_weights
from ppcls_ext.weights.naming import are_fused
from ppcls_ext.weights.published import address

logger = logging.getLogger("ppcls_ext")

#: Pictures a class below which a net of random weights learns little of photographs.
FEW = 100


def fetch_weights(config: dict) -> None:
    """Puts local files in the place of `published` and of addresses, in Global.pretrained_model and Arch.pretrained.

    Raises:
        PpclsExtError: none are published, or they cannot be downloaded.
    """
    settings, arch = config["Global"], config["Arch"]
    if not is_ours(config):
        return  # PaddleClas downloads its own
    for section, field in ((settings, "pretrained_model"), (arch, "pretrained")):
        if is_remote(section.get(field)):
            section[field] = fetch(section[field], arch["name"])


def unfuse_where_needed(config: dict) -> None:
    """Asks for `Recipe.unfuse` where a training of the unfused form is to begin with fused weights.

    Raises:
        PpclsExtError: there is no such file, or it cannot be read.
    """
    settings, arch = config["Global"], config["Arch"]
    recipe = config.get("Recipe") or {}
    weights = settings["pretrained_model"]
    if not is_ours(config) or settings["checkpoints"] or arch.get("fused") or not isinstance(weights, str):
        return
    if not isinstance(recipe, dict) or recipe.get("unfuse") is not None:
        return
    if not are_fused(read_weights(intact(existing_file("Global.pretrained_model", weights, ".pdparams")))):
        return
    config["Recipe"] = {**recipe, "unfuse": {}}
    logger.info(
        "%s holds fused weights: they get their branches back, calibrated on up to %d training pictures "
        "(Recipe.unfuse.pictures says another number, Arch.fused=True trains the fused form instead)",
        weights,
        CALIBRATION_PICTURES,
    )


def say_what_to_expect(config: dict, pictures: int) -> None:
    """Logs, in one line, that a training from scratch on few pictures leads nowhere near a fine-tuned net.

    Args:
        config: prepared, in mode "train".
        pictures: to train on.
    """
    settings, arch = config["Global"], config["Arch"]
    classes = class_count(config)
    if not is_ours(config) or settings["checkpoints"] or arch.get("pretrained") or pictures >= FEW * classes:
        return
    published = "-o Global.pretrained_model=published" if address(arch["name"]) else "-o Global.pretrained_model=FILE"
    logger.warning(
        "%s starts from random weights: %d pictures of %d classes teach it little of photographs, far less than "
        "fine-tuning ImageNet's weights does (%s)",
        *(arch["name"], pictures, classes, published),
    )
