"""The image lists that a configuration names."""

from __future__ import annotations

import logging
from pathlib import Path

from ppcls_ext.configuration.host_copies import copy_list, host_reads_list
from ppcls_ext.data.lists import ListEntry, read_list
from ppcls_ext.data.overlap import overlap
from ppcls_ext.errors import PpclsExtError
from ppcls_ext.runs.trained_with import class_count

logger = logging.getLogger("ppcls_ext")


def read_lists(config: dict, mode: str) -> dict[str, list[ListEntry]]:
    """The entries of the plain image lists that `mode` uses, by loader, with labels and files checked.

    Raises:
        PpclsExtError: with file and line of the first fault.
    """
    lists = {loader: _read_list(config, loader) for loader in _loaders(config, mode)}
    return {loader: entries for loader, entries in lists.items() if entries is not None}


def _loaders(config: dict, mode: str) -> tuple[str, ...]:
    if mode == "train":
        return ("Train", "Eval") if config["Global"]["eval_during_train"] else ("Train",)
    return ("Eval",) if mode == "eval" else ()


def warn_about_overlap(config: dict, train: list[ListEntry], evaluation: list[ListEntry]) -> None:
    """Logs, in one line, that pictures to evaluate on are trained on too."""
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
    class_num = None if dataset.get("relabel") else class_count(config)
    return read_list(path, root, class_num, dataset.get("delimiter") or " ")


def give_host_a_list(dataset: dict, entries: list[ListEntry]) -> None:
    """Makes the data set name a copy of its list where PaddleClas would misread the list itself."""
    path, delimiter = Path(dataset["cls_label_path"]), dataset.get("delimiter") or " "
    if not host_reads_list(path, dataset["image_root"], delimiter, entries):
        copy, dataset["delimiter"] = copy_list(entries)
        dataset["cls_label_path"] = str(copy)
        logger.debug("%s has paths or lines that PaddleClas misreads: it gets the copy %s", path, copy)
