"""The weights and checkpoints that a configuration names: found, downloaded, checked."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ppcls_ext.config.first_epoch import VALUABLE, discard, files_of, require_own_places, settle
from ppcls_ext.config.lists import copy_class_names, copy_weights, host_reads_class_names
from ppcls_ext.config.recipe import CALIBRATION_IMAGES
from ppcls_ext.config.settings import RunSettings, Weights, existing_file
from ppcls_ext.errors import PpclsExtError
from ppcls_ext.weights.checkpoint_sets import find_newest, finish, has_manifest
from ppcls_ext.weights.files import read_names
from ppcls_ext.weights.folder_lock import hold, release
from ppcls_ext.weights.naming import are_fused
from ppcls_ext.weights.published import URLS, address

logger = logging.getLogger("ppcls_ext")


def require_path(field: str, value: Any) -> None:
    """Raises PpclsExtError where the value of a field is no path."""
    if not isinstance(value, str) or not value or "\0" in value:
        raise PpclsExtError(f"{field} is {value!r}: expected the path of a folder")


def require_writable(field: str, value: Any) -> None:
    """Where the folder is not there yet, the nearest one above it counts."""
    require_path(field, value)
    path = Path(value).absolute()
    nearest = next(folder for folder in (path, *path.parents) if folder.exists())
    if not nearest.is_dir():
        raise PpclsExtError(f"{field} is {value}: {nearest} is not a folder; choose one that can be written")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise PpclsExtError(f"{field} is {value}: {nearest} cannot be written; choose a folder that can")


def place_checkpoints(config: dict, folder: Path) -> bool:
    """Makes the output folder this training's own, and finds the checkpoint to resume from.

    Also puts the files of an interrupted save in order.

    Args:
        config: names the checkpoint: a path, or "latest" for the run's newest.
        folder: the run's folder.

    Returns:
        Whether the checkpoint is one of the run's own.

    Raises:
        PpclsExtError: another process trains in the folder, an earlier training's checkpoints would be overwritten, or
            there is no such checkpoint.
    """
    from paddle.distributed import get_rank

    settings = config["Global"]
    if get_rank() == 0:
        hold(folder)
        settle(folder)
        require_own_places(folder)
        discard(folder)
    given, overwrite = settings["checkpoints"] or None, settings.pop("overwrite", False)
    settings["checkpoints"] = found = _find_checkpoint(given, folder)
    is_own = found is not None and is_within(found, folder)
    if get_rank() != 0:
        return is_own
    if found is not None and is_own:
        finish(Path(found))
    elif not overwrite:
        require_no_earlier_training(folder)
    if found is not None and not is_own:
        with contextlib.suppress(PpclsExtError):  # of a training that still runs, or where nothing can be written
            hold(Path(found).parent)
            finish(Path(found))
            release(Path(found).parent)
    return is_own


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


def is_within(prefix: str, folder: Path) -> bool:
    """Whether a checkpoint is one of `folder`, or of a folder in it, where PaddleClas may write them."""
    parent = Path(os.path.realpath(prefix)).parent
    return Path(os.path.realpath(folder)) in (parent, parent.parent)


def require_no_earlier_training(folder: Path) -> None:
    """Raises PpclsExtError where a training that begins anew in `folder` would remove another's results.

    It removes them at the end of its first epoch; see `config.first_epoch`.
    """
    found = earlier_training(folder)
    if found is not None:
        path, what = found
        raise PpclsExtError(
            f"{path} is of an earlier training, {what} of which this one would overwrite: resume it with "
            "--resume, overwrite it with --overwrite (or -o Global.overwrite=true), or choose another "
            "--name (Global.run_name) or --out (Global.output_dir)"
        )


def earlier_training(folder: Path) -> tuple[Path, str] | None:
    """A file that a training in `folder` has left and that is worth keeping, and what it belongs to; None without."""
    found = files_of(folder, VALUABLE)
    weights = [path for path in found if path.name.endswith(".pdparams")]
    exported = [path for path in found if path.suffix == ".onnx" or path.parent.name == "inference"]
    best, latest = (
        [path for path in weights if name in (path.name.split(".")[0], path.parent.name)]
        for name in ("best_model", "latest")
    )
    kinds = {"the best model": best, "the checkpoints": [*latest, *weights], "the exported files": exported}
    return next(((paths[0], what) for what, paths in kinds.items() if paths), None)


def place_weights(run: RunSettings, weights: Weights | None, mode: str) -> None:
    """Hands the weights to whoever loads them, in place.

    Our factories load strictly; PaddleClas's own loader skips what does not fit with a warning.

    Args:
        run: the settings that are being prepared.
        weights: the weights of one of this project's models.
        mode: see `prepare`.

    Raises:
        PpclsExtError: weights of another model are missing, were altered, or their classes differ.
    """
    settings, arch = run.config["Global"], run.config["Arch"]
    given = settings["pretrained_model"]
    if weights is not None:
        arch["pretrained"] = str(weights.content)
        settings["pretrained_model"] = None
    elif given is None or run.arch.is_ours:
        if mode != "train" and not _any_pretrained(arch):
            logger.warning("no Global.pretrained_model: the weights are random")
    elif isinstance(given, str) and not given.startswith(URLS):
        # PaddleClas 2.4 appends the suffix itself
        found = run.local_weights("Global.pretrained_model", given.removesuffix(".pdparams"), mode).content
        path = found if found.suffix == ".pdparams" else copy_weights(found)
        settings["pretrained_model"] = str(path).removesuffix(".pdparams")


def _any_pretrained(node: Any) -> bool:
    if isinstance(node, dict):
        return any(bool(value) if "pretrained" in key else _any_pretrained(value) for key, value in node.items())
    return isinstance(node, list) and any(_any_pretrained(value) for value in node)


def place_class_names(run: RunSettings) -> None:
    """Names the file of class names as PaddleClas reads it, in place: one of its own by its path, or a clean copy.

    Raises:
        PpclsExtError: there is no such file, or it is damaged.
    """
    post_process = run.config["Infer"]["PostProcess"]
    path = run.class_names_file
    if path is None:
        return
    if not path.is_file():
        name = post_process["class_id_map_file"]
        raise PpclsExtError(f"Infer.PostProcess.class_id_map_file is {name}: no such file; correct it or make it null")
    delimiter = post_process.get("delimiter") or " "
    names = run.class_names or ()
    post_process["class_id_map_file"] = str(
        path if host_reads_class_names(path) else copy_class_names(names, delimiter)
    )


def check_class_names(run: RunSettings) -> None:
    """Raises PpclsExtError where the file of class names, if it is there, does not fit the classes: in every mode."""
    if run.arch.is_ours and run.class_names_file is not None and run.class_names_file.is_file():
        _ = run.class_names


#: Number of images per class below which a network with random weights learns little of photographs.
FEW = 100


def unfuse_where_needed(run: RunSettings, weights: Weights | None) -> None:
    """Asks for `Recipe.unfuse`, in place, where a training of the unfused form begins with weights of another form.

    Raises:
        PpclsExtError: the file cannot be read.
    """
    settings, recipe = run.config["Global"], run.config.get("Recipe") or {}
    if weights is None or settings["checkpoints"] or run.config["Arch"].get("fused"):
        return
    if settings["pretrained_model"] is None or not isinstance(recipe, dict) or recipe.get("unfuse") is not None:
        return
    from ppcls_ext.models.factories import other_form

    names, asked = read_names(weights.content), run.arch.arguments
    calibrated = f"calibrated on up to {CALIBRATION_IMAGES} training images (Recipe.unfuse.pictures says another number"
    if are_fused(names):
        logger.info(
            "%s holds fused weights: they get their branches back, %s, Arch.fused=True trains the fused form instead)",
            *(weights.name, calibrated),
        )
    elif form := other_form(run.arch.name, asked, names):
        logger.info(
            "%s has %s, and %s trained: the weights are fused and get these branches, %s)",
            *(weights.name, _in_words(form), _in_words({name: asked[name] for name in form}), calibrated),
        )
    else:
        return
    run.config["Recipe"] = {**recipe, "unfuse": {}}


def _in_words(form: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in form.items())


def say_what_to_expect(run: RunSettings, images: int) -> None:
    """Logs, in one line, that a training from scratch on few images leads nowhere near a fine-tuned net.

    Args:
        run: the settings, prepared in the mode "train".
        images: number of training images.
    """
    settings, arch = run.config["Global"], run.config["Arch"]
    few = FEW * (run.class_num or 0)
    if not run.arch.is_ours or settings["checkpoints"] or arch.get("pretrained") or images >= few:
        return
    published = f"--weights {'published' if address(arch['name']) else 'FILE'}"
    logger.warning(
        "%s starts from random weights: %d images of %d classes teach it little of photographs, far less than "
        "fine-tuning ImageNet's weights does (%s)",
        *(arch["name"], images, run.class_num, published),
    )
