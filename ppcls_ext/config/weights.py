"""The weights and checkpoints that a configuration names: found, downloaded, checked."""

from __future__ import annotations

import contextlib
import logging
import os
from pathlib import Path
from typing import Any

from ppcls_ext.config.checks import is_ours
from ppcls_ext.config.lists import copy_class_names, copy_weights, host_reads_class_names
from ppcls_ext.config.recipe import CALIBRATION_PICTURES
from ppcls_ext.config.trained_with import check_weights, class_count
from ppcls_ext.data.lists import read_class_names
from ppcls_ext.errors import PpclsExtError
from ppcls_ext.hosts.paddleclas.locate import activate
from ppcls_ext.weights.checkpoint_sets import find_newest, finish, has_manifest, intact, is_saved
from ppcls_ext.weights.files import read_weights
from ppcls_ext.weights.folder_lock import hold, release
from ppcls_ext.weights.naming import are_fused
from ppcls_ext.weights.published import URLS, address, fetch, is_remote

logger = logging.getLogger("ppcls_ext")


def require_writable(field: str, value: Any) -> None:
    """Where the folder is not there yet, the nearest one above it counts."""
    if not isinstance(value, str) or not value:
        raise PpclsExtError(f"{field} is {value!r}: expected the path of a folder")
    path = Path(value).absolute()
    nearest = next(folder for folder in (path, *path.parents) if folder.exists())
    if not nearest.is_dir():
        raise PpclsExtError(f"{field} is {value}: {nearest} is not a folder; choose one that can be written")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise PpclsExtError(f"{field} is {value}: {nearest} cannot be written; choose a folder that can")


def place_checkpoints(config: dict, folder: Path) -> None:
    """Makes the output folder this training's own, and finds the checkpoint to resume from.

    Puts in order what an interrupted save of it left.

    Args:
        config: says which checkpoint: a path, or "latest" for that of the run.
        folder: of the run.

    Raises:
        PpclsExtError: another process trains in the folder, an earlier training's checkpoints would be overwritten, or
            there is no such checkpoint.
    """
    from paddle.distributed import get_rank

    settings = config["Global"]
    if get_rank() == 0:
        hold(folder)
    given, overwrite = settings["checkpoints"] or None, settings.pop("overwrite", False)
    settings["checkpoints"] = found = _find_checkpoint(given, folder)
    if get_rank() != 0:
        return
    is_within = found is not None and _is_within(found, folder)
    if is_within:
        finish(Path(found))
    elif not overwrite:
        require_no_earlier_training(folder)
    if found is not None and not is_within:
        with contextlib.suppress(PpclsExtError):  # of a training that still runs, or where nothing can be written
            hold(Path(found).parent)
            finish(Path(found))
            release(Path(found).parent)


def _find_checkpoint(given: Any, folder: Path) -> str | None:
    """The path without suffix of the checkpoint to resume from."""
    if given is None:
        return None
    if given == "latest":
        found, faults = find_newest(folder)
        for fault in faults:
            logger.warning("%s is skipped", fault)
        if found is None:
            raise PpclsExtError(
                f"Global.checkpoints is latest, and {folder} holds no complete checkpoint to resume from: leave it out "
                "to begin, or give the path of one"
            )
        stem = str(found.prefix)
    else:
        stem = str(given).removesuffix(".pdparams")
    if not has_manifest(Path(stem)):
        for suffix in (".pdparams", ".pdopt", ".pdstates"):
            existing_file("Global.checkpoints", stem, suffix)
    return stem


def _is_within(prefix: str, folder: Path) -> bool:
    """Whether a checkpoint is one of `folder`, or of a folder in it, where PaddleClas may write them."""
    parent = Path(os.path.realpath(prefix)).parent
    return Path(os.path.realpath(folder)) in (parent, parent.parent)


def require_no_earlier_training(folder: Path) -> None:
    """Raises PpclsExtError where a training that begins anew in `folder` would overwrite another's checkpoints.

    It overwrites `latest` at the end of its first epoch, and mostly the best model too.
    """
    for name, what in (("best_model", "the best model"), ("latest", "the checkpoints")):
        there = [*folder.glob(f"{name}.pdparams"), *folder.glob(f"{name}/*.pdparams")]
        if there:
            raise PpclsExtError(
                f"{there[0]} is of an earlier training, {what} of which this one would overwrite: resume it with "
                "--resume, overwrite it with --overwrite (or -o Global.overwrite=true), or choose another "
                "Global.output_dir"
            )


def place_weights(config: dict, mode: str) -> None:
    """Finds the weights file and hands it to whoever loads it.

    Our factories load strictly; PaddleClas's own loader skips what does not fit with a warning.
    """
    settings, arch = config["Global"], config["Arch"]
    weights = settings["pretrained_model"]
    if weights is None:
        if mode != "train" and not _any_pretrained(arch):
            logger.warning("no Global.pretrained_model: the weights are random")
    elif is_ours(config):
        arch["pretrained"] = str(find_weights(weights, config, mode))
        settings["pretrained_model"] = None
    elif isinstance(weights, str) and not weights.startswith(URLS):
        # PaddleClas 2.4 appends the suffix itself
        path = find_weights(weights.removesuffix(".pdparams"), config, mode)
        path = path if path.suffix == ".pdparams" else copy_weights(path)
        settings["pretrained_model"] = str(path).removesuffix(".pdparams")


def find_weights(weights: Any, config: dict, mode: str) -> Path:
    """The file with the content of `Global.pretrained_model`, once it is known to be for this configuration.

    Args:
        weights: a path, with or without the suffix .pdparams.
        config: what the weights are for.
        mode: see `check_weights`.

    Raises:
        PpclsExtError: there is no such file, it was altered after a training wrote it, or its classes differ.
    """
    path = existing_file("Global.pretrained_model", weights, ".pdparams")
    check_weights(path, config, mode)
    return intact(path)


def _any_pretrained(node: Any) -> bool:
    if isinstance(node, dict):
        return any(bool(value) if "pretrained" in key else _any_pretrained(value) for key, value in node.items())
    return isinstance(node, list) and any(_any_pretrained(value) for value in node)


def existing_file(field: str, value: Any, suffix: str) -> Path:
    """The file that `value` means, with or without `suffix`."""
    if not isinstance(value, str) or not value:
        raise PpclsExtError(f"{field} is {value!r}: expected a path")
    for path in (Path(value + suffix), Path(value)):
        if path.name and is_saved(path):
            return path
    folder = Path(value).parent
    there = sorted(path.name for path in folder.glob(f"*{suffix}")) if folder.is_dir() else []
    hint = f"{folder} holds {', '.join(there[:5])}" if there else f"{folder} holds no {suffix} file"
    raise PpclsExtError(f"{field} is {value}: no such file, with or without {suffix}; {hint}")


def find_class_names(post_process: dict) -> None:
    """PaddleClas's YAML files name the list of classes from PaddleClas's own folder."""
    name = post_process.get("class_id_map_file")
    if name is None:
        return
    path = Path(name) if Path(name).is_file() else activate().path / name
    if not path.is_file():
        raise PpclsExtError(f"Infer.PostProcess.class_id_map_file is {name}: no such file; correct it or make it null")
    delimiter = post_process.get("delimiter") or " "
    names = read_class_names(path, delimiter)
    post_process["class_id_map_file"] = str(
        path if host_reads_class_names(path) else copy_class_names(names, delimiter)
    )


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
