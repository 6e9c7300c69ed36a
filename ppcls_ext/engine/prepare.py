"""Brings a configuration into the form that PaddleClas's engine runs safely, or says what is wrong with it.

Everything is checked before anything is built: fields, names, device, weights, data.
"""

from __future__ import annotations

import inspect
import logging
import os
from pathlib import Path
from typing import Any

from ppcls_ext.data.lists import ListEntry, overlap, read_list
from ppcls_ext.engine import expressions
from ppcls_ext.engine.clean_copies import copy_class_names, copy_list, host_reads_class_names, host_reads_list
from ppcls_ext.engine.sets import find_newest, finish, intact
from ppcls_ext.errors import PpclsExtError
from ppcls_ext.host.locate import activate
from ppcls_ext.onnx.metadata import read_class_names
from ppcls_ext.recipe.settings import check, read_settings

logger = logging.getLogger("ppcls_ext")

#: Sections that each mode uses.
SECTIONS = {
    "train": ("Global", "Arch", "Loss", "UnLabelLoss", "Optimizer", "DataLoader", "Metric"),
    "eval": ("Global", "Arch", "Loss", "DataLoader", "Metric"),
    "infer": ("Global", "Arch", "Infer"),
    "export": ("Global", "Arch"),
}
#: Fields without which the engine fails somewhere inside.
REQUIRED = {
    "train": (
        *("Global.output_dir", "Global.epochs", "Global.print_batch_step", "Global.save_interval"),
        *("Global.eval_during_train", "Global.eval_interval"),
        *("Arch.name", "Loss.Train", "Optimizer", "DataLoader.Train"),
    ),
    "eval": ("Global.output_dir", "Global.print_batch_step", "Arch.name", "DataLoader.Eval", "Metric.Eval"),
    "infer": (
        *("Global.output_dir", "Arch.name", "Infer.infer_imgs", "Infer.batch_size", "Infer.transforms"),
        "Infer.PostProcess.name",
    ),
    "export": ("Global.output_dir", "Global.image_shape", "Global.save_inference_dir", "Arch.name"),
}
#: Fields of newer engines that an older one would leave out without a word: field, and the text in its source.
NEWER = {"EMA": '"EMA"', "Global.train_mode": '"train_mode"', "Global.update_freq": '"update_freq"'}
URLS = ("http://", "https://")


def prepare(config: dict, mode: str) -> dict:
    """The configuration as PaddleClas's engine takes it (its AttrDict).

    Our models must be registered already.

    Args:
        config: what `load_config` returned; changed in place.
        mode: "train", "eval", "infer" or "export".

    Raises:
        PpclsExtError: with the path of the field that is missing or wrong.
    """
    _require_fields(config, mode)
    _fill_in(config, mode)
    expressions.resolve(config, SECTIONS[mode])
    if mode == "train":
        _warn_about_newer_fields(config)
        _check_profiler(config)
    config["Global"]["device"] = choose_device(config["Global"].get("device"))
    for field in ("output_dir", *(("save_inference_dir",) if mode == "export" else ())):
        _require_writable(f"Global.{field}", config["Global"][field])
    if mode == "train":
        _place_checkpoints(config)
        check(read_settings(config), config, is_ours(config))
    _place_weights(config, mode)
    if mode == "infer":
        _find_class_names(config["Infer"]["PostProcess"])
    lists = read_lists(config, mode)
    if {"Train", "Eval"} <= set(lists):
        _warn_about_overlap(config, lists["Train"], lists["Eval"])
    for loader, entries in lists.items():
        _give_host_a_list(config["DataLoader"][loader]["dataset"], entries)

    from ppcls.utils.config import AttrDict, create_attr_dict

    prepared = AttrDict(config)
    create_attr_dict(prepared)
    return prepared


def read_lists(config: dict, mode: str) -> dict[str, list[ListEntry]]:
    """The entries of the plain image lists that `mode` uses, by loader, with labels and files checked.

    Raises:
        PpclsExtError: with file and line of the first fault.
    """
    lists = {loader: _read_list(config, loader) for loader in _loaders(config, mode)}
    return {loader: entries for loader, entries in lists.items() if entries is not None}


def choose_device(wanted: str | None) -> str:
    """The device to run on: for "auto" (or nothing) the GPU where Paddle sees one, else the CPU.

    Raises:
        PpclsExtError: the device asked for is not there.
    """
    import paddle

    names = [*paddle.device.get_available_device(), *(paddle.device.get_available_custom_device() or ())]
    available = {"cpu", *(name.split(":")[0] for name in names)}
    if wanted in (None, "auto"):
        return "gpu" if "gpu" in available else "cpu"
    if wanted not in available:
        raise PpclsExtError(
            f"Global.device is {wanted!r}, and this Paddle sees only {', '.join(sorted(available))}: "
            "use one of these or auto"
        )
    return wanted


def is_ours(config: dict) -> bool:
    """Whether the architecture is one of this project's models, on its own."""
    from ppcls_ext.models import FACTORIES

    return config["Arch"]["name"] in FACTORIES


def _require_fields(config: dict, mode: str) -> None:
    evaluates = mode == "train" and _get(config, "Global.eval_during_train")
    for path in (*REQUIRED[mode], *(("DataLoader.Eval", "Metric.Eval") if evaluates else ())):
        if _get(config, path) is None:
            raise PpclsExtError(f"the configuration has no {path}, which {mode} needs: add it, or -o {path}=…")


def _get(config: dict, path: str) -> Any:
    node: Any = config
    for part in path.split("."):
        node = node.get(part) if isinstance(node, dict) else None
    return node


def _fill_in(config: dict, mode: str) -> None:
    """What the engine reads in every mode although it means nothing there, and a switch that 2.4 does not know."""
    for field, value in (("checkpoints", None), ("pretrained_model", None), ("use_visualdl", False), ("epochs", 1)):
        config["Global"].setdefault(field, value)
    for section in ("DataLoader", "Metric"):
        config[section] = config.get(section) or {}
    if mode == "export":
        config["Metric"].setdefault("Eval", [{}])
    config.setdefault("profiler_options", None)
    if config.get("AMP") and not config["AMP"].get("use_amp", True):
        config["AMP"] = None  # PaddleClas 2.4 turns AMP on for any AMP section


def _require_writable(field: str, value: Any) -> None:
    """Where the folder is not there yet, the nearest one above it counts."""
    if not isinstance(value, str) or not value:
        raise PpclsExtError(f"{field} is {value!r}: expected the path of a folder")
    path = Path(value).absolute()
    nearest = next(folder for folder in (path, *path.parents) if folder.exists())
    if not nearest.is_dir():
        raise PpclsExtError(f"{field} is {value}: {nearest} is not a folder; choose one that can be written")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise PpclsExtError(f"{field} is {value}: {nearest} cannot be written; choose a folder that can")


def _warn_about_newer_fields(config: dict) -> None:
    paddleclas = activate(need_engine=True)
    source = (paddleclas.path / "ppcls" / "engine" / "engine.py").read_text(encoding="utf-8")
    for field, text in NEWER.items():
        if _get(config, field) and text not in source:
            logger.warning("%s is left out: PaddleClas %s cannot do it", field, paddleclas.version)


def _check_profiler(config: dict) -> None:
    import paddle
    from ppcls.utils import profiler

    uses_old = "paddle.utils.profiler" in inspect.getsource(profiler)
    if config["profiler_options"] and uses_old and not hasattr(paddle.utils, "profiler"):
        raise PpclsExtError(
            f"--profiler_options: {activate()} profiles with paddle.utils.profiler, which Paddle {paddle.__version__} "
            "does not have: leave the option out or use a newer PaddleClas"
        )


def _place_checkpoints(config: dict) -> None:
    """Finds the checkpoint to resume from and puts in order what an interrupted save of it left."""
    settings = config["Global"]
    given = settings["checkpoints"]
    if not given:
        settings["checkpoints"] = None
        return
    if given == "latest":
        folder = Path(settings["output_dir"]) / config["Arch"]["name"]
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
    from paddle.distributed import get_rank

    if get_rank() == 0:
        finish(Path(stem))
    for suffix in (".pdparams", ".pdopt", ".pdstates"):
        _existing("Global.checkpoints", stem, suffix)
    settings["checkpoints"] = stem


def _place_weights(config: dict, mode: str) -> None:
    """Finds the weights file and hands it to whoever loads it.

    Our factories load strictly; PaddleClas's own loader skips what does not fit with a warning.
    """
    settings, arch = config["Global"], config["Arch"]
    weights = settings["pretrained_model"]
    if weights is None:
        if mode != "train" and not _any_pretrained(arch):
            logger.warning("no Global.pretrained_model: the weights are random")
    elif is_ours(config):
        arch["pretrained"] = str(intact(_existing("Global.pretrained_model", weights, ".pdparams")))
        settings["pretrained_model"] = None
    elif isinstance(weights, str) and not weights.startswith(URLS):
        # PaddleClas 2.4 appends the suffix itself
        path = _existing("Global.pretrained_model", weights.removesuffix(".pdparams"), ".pdparams")
        settings["pretrained_model"] = str(path).removesuffix(".pdparams")


def _any_pretrained(node: Any) -> bool:
    if isinstance(node, dict):
        return any(bool(value) if "pretrained" in key else _any_pretrained(value) for key, value in node.items())
    return isinstance(node, list) and any(_any_pretrained(value) for value in node)


def _existing(field: str, value: Any, suffix: str) -> Path:
    """The file that `value` means, with or without `suffix`."""
    if not isinstance(value, str) or not value:
        raise PpclsExtError(f"{field} is {value!r}: expected a path")
    if value.startswith(URLS):
        raise PpclsExtError(f"{field} is {value}: download it and give its path")
    for path in (Path(value + suffix), Path(value)):
        if path.is_file():
            return path
    folder = Path(value).parent
    there = sorted(path.name for path in folder.glob(f"*{suffix}")) if folder.is_dir() else []
    hint = f"{folder} holds {', '.join(there[:5])}" if there else f"{folder} holds no {suffix} file"
    raise PpclsExtError(f"{field} is {value}: no such file, with or without {suffix}; {hint}")


def _find_class_names(post_process: dict) -> None:
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


def _loaders(config: dict, mode: str) -> tuple[str, ...]:
    if mode == "train":
        return ("Train", "Eval") if config["Global"]["eval_during_train"] else ("Train",)
    return ("Eval",) if mode == "eval" else ()


def _warn_about_overlap(config: dict, train: list[ListEntry], evaluation: list[ListEntry]) -> None:
    both = overlap(train, evaluation)
    if both:
        logger.warning(
            "%d of the %d images of %s are training images too, so its metrics say little about new ones: first %s",
            *(len(both), len(evaluation), config["DataLoader"]["Eval"]["dataset"]["cls_label_path"], both[0]),
        )


def _read_list(config: dict, loader: str) -> list[ListEntry] | None:
    """The entries of a plain image-list dataset, None of another one."""
    dataset = (config["DataLoader"].get(loader) or {}).get("dataset") or {}
    if dataset.get("name") not in ("ImageNetDataset", "ClsDataset"):
        return None
    where = f"DataLoader.{loader}.dataset"
    for field in ("image_root", "cls_label_path"):
        if not isinstance(dataset.get(field), str):
            raise PpclsExtError(f"{where}.{field} is {dataset.get(field)!r}: expected a path")
    path, root = Path(dataset["cls_label_path"]), Path(dataset["image_root"])
    return read_list(path, root, _class_num(config, dataset), dataset.get("delimiter") or " ")


def _give_host_a_list(dataset: dict, entries: list[ListEntry]) -> None:
    path, delimiter = Path(dataset["cls_label_path"]), dataset.get("delimiter") or " "
    if not host_reads_list(path, dataset["image_root"], delimiter, entries):
        copy, dataset["delimiter"] = copy_list(entries)
        dataset["cls_label_path"] = str(copy)
        logger.info("%s has paths or lines that PaddleClas misreads: it gets the copy %s", path, copy)


def _class_num(config: dict, dataset: dict) -> int | None:
    """How many classes the labels may have, where it can be told."""
    if dataset.get("relabel"):
        return None
    stated = config["Arch"].get("class_num") or config["Global"].get("class_num")
    return stated or (1000 if is_ours(config) else None)
