"""Brings a configuration into the form that PaddleClas's engine runs safely, or says what is wrong with it.

Everything is checked before anything is built: fields, names, device, weights, data.
"""

from __future__ import annotations

import copy
import logging
from pathlib import Path

from ppcls_ext.config.checks import (
    check_numbers,
    check_options,
    choose_device,
    describes_export,
    fill_in,
    is_ours,
    require_fields,
    warn_about_newer_fields,
)
from ppcls_ext.config.folder import folder_of, make_absolute
from ppcls_ext.config.host_classes import check_arguments, resolve
from ppcls_ext.config.lists import give_host_a_list, read_lists, say_what_is_left_out, warn_about_overlap
from ppcls_ext.config.recipe import check_recipe, read_settings
from ppcls_ext.config.resume import check_patience, leave_out_start, report_changes
from ppcls_ext.config.weights import (
    fetch_weights,
    find_class_names,
    place_checkpoints,
    place_weights,
    require_writable,
    say_what_to_expect,
    unfuse_where_needed,
)
from ppcls_ext.errors import PpclsExtError
from ppcls_ext.hosts.paddleclas.locate import activate
from ppcls_ext.hosts.paddleclas.versions import profiles_with_removed_module
from ppcls_ext.weights.folder_lock import release

logger = logging.getLogger("ppcls_ext")


#: Sections that each mode uses.
SECTIONS = {
    "train": ("Global", "Arch", "Loss", "UnLabelLoss", "Optimizer", "DataLoader", "Metric"),
    "eval": ("Global", "Arch", "Loss", "DataLoader", "Metric"),
    "infer": ("Global", "Arch", "Infer"),
    "export": ("Global", "Arch"),
}


def prepare(config: dict, mode: str, folder: Path | None = None) -> dict:
    """The configuration as PaddleClas's engine takes it (its AttrDict).

    Our models must be registered already.

    Args:
        config: what `load_config` returned; changed in place.
        mode: "train", "eval", "infer" or "export".
        folder: of the run; `output_dir/ARCH` where None.

    Returns:
        What PaddleClas takes, and under "Run", for our engine, the folder and the configuration as the user may read
        and use it again, with absolute paths.

    Raises:
        PpclsExtError: with the path of the field that is missing or wrong.
    """
    require_fields(config, mode)
    try:
        return _prepare(config, mode, folder)
    except BaseException:
        if mode == "train":
            release(folder or folder_of(config))
        raise


def _prepare(config: dict, mode: str, folder: Path | None) -> dict:
    fill_in(config, mode)
    check_numbers(config, SECTIONS[mode])
    resolve(config, SECTIONS[mode])
    check_arguments(config, SECTIONS[mode])
    warn_about_newer_fields(config, mode)
    if mode == "train":
        _check_profiler(config)
    resolved = copy.deepcopy(config)
    resolved["Global"]["checkpoints"] = None
    resolved["Global"].pop("overwrite", None)
    resolved["Global"].pop("report", None)
    make_absolute(resolved, activate().path)
    config["Global"]["device"] = choose_device(config["Global"].get("device"))
    check_options(config, mode)
    for field in ("output_dir", *(("save_inference_dir",) if mode == "export" else ())):
        require_writable(f"Global.{field}", config["Global"][field])
    folder = folder_of(config) if folder is None else folder
    if mode == "train":
        _prepare_training(config, resolved, folder)
    fetch_weights(config)
    if mode == "train":
        unfuse_where_needed(config)
        check_recipe(read_settings(config), config, is_ours(config))
    place_weights(config, mode)
    if mode == "infer" or describes_export(config, mode):
        find_class_names(config["Infer"]["PostProcess"])
    lists = read_lists(config, mode)
    if {"Train", "Eval"} <= set(lists):
        warn_about_overlap(config, lists["Train"], lists["Eval"])
    if mode == "train" and "Train" in lists:
        say_what_to_expect(config, len(lists["Train"]))
    say_what_is_left_out(config, lists)
    for loader, entries in lists.items():
        give_host_a_list(config["DataLoader"][loader]["dataset"], entries)

    from ppcls.utils.config import AttrDict, create_attr_dict

    prepared = AttrDict(config)
    create_attr_dict(prepared)
    prepared["Run"] = {"folder": folder, "config": resolved}
    return prepared


def _prepare_training(config: dict, resolved: dict, folder: Path) -> None:
    """What a training resumes from, and what it keeps."""
    check_patience(config)
    settings = config["Global"]
    place_checkpoints(config, folder)
    if settings["checkpoints"]:
        leave_out_start(config)
        report_changes(resolved, folder)
    if settings.get("save_interval") in (None, False, 0, -1):
        settings["save_interval"] = settings["epochs"] + 1  # PaddleClas 2.4 divides by it


def _check_profiler(config: dict) -> None:
    import paddle

    if config["profiler_options"] and profiles_with_removed_module():
        raise PpclsExtError(
            f"--profiler_options: {activate()} profiles with paddle.utils.profiler, which Paddle {paddle.__version__} "
            "does not have: leave the option out or use a newer PaddleClas"
        )
