"""Brings a configuration into the form that PaddleClas's engine runs safely, or says what is wrong with it.

Everything is checked before anything is built: fields, names, device, weights, data.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from ppcls_ext.config.best import BestBy, prepare_metrics
from ppcls_ext.config.budget import read_budget
from ppcls_ext.config.checks import (
    check_numbers,
    check_options,
    check_task,
    describes_export,
    fill_in,
    require_fields,
    warn_about_newer_fields,
)
from ppcls_ext.config.folder import (
    check_patience,
    check_resumed,
    compare_class_names,
    leave_out_start,
    make_absolute,
    name_lists,
    read_trained_with,
    report_changes,
    trained_lists,
)
from ppcls_ext.config.host_classes import check_arguments, resolve
from ppcls_ext.config.lists import (
    read_lists,
    require_same_classes,
    say_what_is_left_out,
    warn_about_overlap,
)
from ppcls_ext.config.recipe import Settings as RecipeSettings
from ppcls_ext.config.recipe import check_recipe
from ppcls_ext.config.settings import RunSettings
from ppcls_ext.config.teachers import open_teachers
from ppcls_ext.config.weights import (
    check_class_names,
    place_checkpoints,
    place_class_names,
    place_weights,
    require_path,
    require_writable,
    say_what_to_expect,
    unfuse_where_needed,
)
from ppcls_ext.data.image_rule import RGB
from ppcls_ext.data.lists import MULTI_LABEL, SINGLE_LABEL, ImageList
from ppcls_ext.errors import PpclsExtError
from ppcls_ext.hosts.paddleclas.channel_operators import with_channels
from ppcls_ext.hosts.paddleclas.image_lists import hand_over
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


@dataclass(frozen=True)
class PreparedRun:
    """A run that is checked and ready to be built.

    Attributes:
        config: the configuration as PaddleClas's engine takes it, its AttrDict.
        folder: the run's folder.
        settings: the configuration as the user may read and use it again, with absolute paths.
        lists: the image lists that the mode uses, by loader.
        recipe: the section `Recipe`; in the mode "train".
        best_by: what decides which epoch is the best; in the mode "train", where it evaluates.
        resumed: whether a training goes on that the run's folder holds.
    """

    config: dict
    folder: Path
    settings: RunSettings
    lists: Mapping[str, ImageList]
    recipe: RecipeSettings | None
    best_by: BestBy | None
    resumed: bool


def prepare(settings: RunSettings, mode: str) -> PreparedRun:
    """Checks a configuration, and brings a copy of it into PaddleClas's form.

    Our models must be registered already. In the mode "train" the run's folder is locked from here on.

    Args:
        settings: the opened configuration.
        mode: "train", "eval", "infer" or "export".

    Raises:
        PpclsExtError: a field is missing or wrong; the message names its path.
    """
    run = replace(settings, config=copy.deepcopy(settings.config))
    require_fields(run.config, mode)
    try:
        return _prepare(run, mode)
    except BaseException:
        if mode == "train":
            release(run.folder)
        raise


def _prepare(run: RunSettings, mode: str) -> PreparedRun:
    config = run.config
    fill_in(config, mode)
    if run.task == MULTI_LABEL:
        config["Global"]["use_multilabel"] = True  # PaddleClas has it from nowhere else
    _ = run.given_thresholds  # whether they fit
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
    config["Global"]["device"] = run.device
    best_by = prepare_metrics(config, mode, run.task) if mode in ("train", "eval") else None
    check_task(config, run.task, SECTIONS[mode])
    check_options(config, mode)
    require_path("Global.output_dir", config["Global"]["output_dir"])
    written = {"train": "output_dir", "export": "save_inference_dir"}.get(mode)  # elsewhere nothing but the log is
    if written is not None:
        require_writable(f"Global.{written}", config["Global"][written])
    resumed = False
    if mode == "train":
        resumed = _prepare_training(run, resolved)
        run = replace(run, trained_lists=trained_lists(run.folder) if resumed else {})
    weights = run.weights(mode) if run.arch.is_ours else None  # PaddleClas downloads its own
    if mode == "train":
        unfuse_where_needed(run, weights)
        check_recipe(run.recipe, config, run.arch.is_ours)
        open_teachers(run)  # raises
    place_weights(run, weights, mode)
    if mode == "infer" or describes_export(config, mode):
        place_class_names(run)
    host_lists, lists = _checked_lists(run, mode)
    if not config["Global"].get("use_dali"):  # which reads the files itself
        for loader, images in host_lists.items():
            hand_over(config["DataLoader"][loader]["dataset"], images, loader == "Eval", run.channels)
    if run.channels != RGB:
        _set_operators(run, mode)

    from ppcls.utils.config import AttrDict, create_attr_dict

    prepared = AttrDict(config)
    create_attr_dict(prepared)
    recipe = run.recipe if mode == "train" else None
    return PreparedRun(prepared, run.folder, replace(run, config=resolved), lists, recipe, best_by, resumed)


def _set_operators(run: RunSettings, mode: str) -> None:
    """Puts operators for the images' channels, in place, where PaddleClas's are for RGB."""
    config = run.config
    if config["Global"].get("use_dali"):
        raise PpclsExtError(f"Global.use_dali reads RGB, and Arch.in_channels is {run.channels}: set it to false")
    loaders = {"train": ("Train", "Eval"), "eval": ("Eval",)}.get(mode, ())
    places = [(f"DataLoader.{loader}.dataset", run.dataset(loader), "transform_ops") for loader in loaders]
    if mode in ("train", "infer"):  # PaddleClas builds them in a training, too
        places.append(("Infer", run.section("Infer"), "transforms"))
    for where, section, field in places:
        if isinstance(section.get(field), list):
            section[field] = with_channels(section[field], run.channels, f"{where}.{field}")


def _checked_lists(run: RunSettings, mode: str) -> tuple[Mapping[str, ImageList], Mapping[str, ImageList]]:
    """The image lists by loader, where they are now and where they will be; says what a user should know of them."""
    host_lists = read_lists(run, mode)
    lists = _as_in_place(run, host_lists)
    check_class_names(run)
    for images in host_lists.values():
        require_same_classes(run, images)
    if {"Train", "Eval"} <= set(lists):
        warn_about_overlap(lists["Train"], lists["Eval"])
    if mode == "train" and "Train" in lists:
        say_what_to_expect(run, len(lists["Train"]))
    say_what_is_left_out(run, lists)
    return host_lists, lists


def _as_in_place(run: RunSettings, lists: Mapping[str, ImageList]) -> Mapping[str, ImageList]:
    """The lists under the names that they will have in the run's folder, which is what messages say of them."""
    if run.made_lists is None:
        return lists
    names = {loader: name_lists(str(images.path), run.made_lists, run.folder) for loader, images in lists.items()}
    return {loader: replace(images, path=Path(names[loader])) for loader, images in lists.items()}


def _prepare_training(run: RunSettings, resolved: dict) -> bool:
    """What a training resumes from, and what it keeps; returns whether the run's folder holds that training."""
    config, settings = run.config, run.config["Global"]
    if run.class_num == 1 and run.task == SINGLE_LABEL and run.arch.is_ours:
        raise PpclsExtError("Arch.class_num is 1: of one class there is nothing to learn; give the number of classes")
    check_patience(config)
    read_budget(run)  # raises; the epochs are chosen before the engine is built
    resumed = place_checkpoints(config, run.folder)
    if resumed:
        latest = Path(f"{settings['checkpoints']}.pdparams")
        compare_class_names(latest, read_trained_with(latest) or {}, run.trained_with())
    if settings["checkpoints"]:
        check_resumed(Path(settings["checkpoints"]), run.trained_with())
        leave_out_start(config)
        report_changes(resolved, run.folder)
    if settings.get("save_interval") in (None, False, 0, -1):
        settings["save_interval"] = settings["epochs"] + 1  # PaddleClas 2.4 divides by it
    return resumed


def _check_profiler(config: dict) -> None:
    import paddle

    if config["profiler_options"] and profiles_with_removed_module():
        raise PpclsExtError(
            f"--profiler_options: {activate()} profiles with paddle.utils.profiler, which Paddle {paddle.__version__} "
            "does not have: leave the option out or use a newer PaddleClas"
        )
