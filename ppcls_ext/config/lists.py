"""The image lists that a configuration names: read once, their faults reported, and handed to PaddleClas."""

from __future__ import annotations

import atexit
import functools
import logging
import math
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ppcls_ext.config.trained_with import class_count
from ppcls_ext.data.class_folders import LABEL_LIST, TRAIN_LIST, VAL_LIST, ClassLists
from ppcls_ext.data.lists import ListEntry, list_text, overlap, read_list, write_list
from ppcls_ext.errors import PpclsExtError

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


#: Samplers that take every picture once; the others, and what they leave out, are known to PaddleClas alone.
PLAIN_SAMPLERS = (None, "DistributedBatchSampler", "BatchSampler")
SHOWN = 5  # classes that a line names


def say_what_is_left_out(config: dict[str, Any], lists: Mapping[str, list[ListEntry]]) -> None:
    """Logs a line for pictures outside every batch and for classes without pictures.

    Args:
        config: prepared, but for PaddleClas's copies of the lists.
        lists: by loader, Train or Eval.

    Raises:
        PpclsExtError: a list makes no batch at all.
    """
    from paddle.distributed import get_world_size

    for loader, entries in lists.items():
        section = config["DataLoader"][loader]
        sampler = section.get("sampler") or {}
        if sampler.get("name") in PLAIN_SAMPLERS and sampler.get("drop_last"):
            where = f"DataLoader.{loader}.sampler"
            _left_out(
                where, section["dataset"]["cls_label_path"], len(entries), sampler["batch_size"], get_world_size()
            )
    if "Train" in lists:
        dataset = config["DataLoader"]["Train"]["dataset"]
        classes = None if dataset.get("relabel") else class_count(config)
        if classes:
            _say_absent_classes(dataset["cls_label_path"], lists["Train"], classes)


def _left_out(where: str, path: str, pictures: int, batch: int, processes: int) -> None:
    batches = math.ceil(pictures / processes) // batch
    if batches == 0:
        raise PpclsExtError(
            f"{where}.batch_size is {batch}{f' on each of {processes} processes' if processes > 1 else ''}, and {path} "
            f"holds {pictures} pictures: with drop_last that makes no batch; lower it, or set drop_last to false"
        )
    left = pictures - batches * batch * processes
    if left > 0:
        what = "epoch" if "Train" in where else "evaluation"
        logger.warning(
            "%d of the %d pictures of %s are left out of each %s: %s.drop_last", left, pictures, path, what, where
        )


def _say_absent_classes(path: str, entries: Sequence[ListEntry], classes: int) -> None:
    labels = {entry.label for entry in entries}
    highest = max(labels)
    if highest + 1 < classes:
        logger.warning(
            "Arch.class_num is %d, and the labels of %s end at %d: the classes from %d have no picture",
            *(classes, path, highest, highest + 1),
        )
    absent = [label for label in range(min(highest, classes)) if label not in labels]
    if absent:
        names = ", ".join(map(str, absent[:SHOWN])) + (", …" if len(absent) > SHOWN else "")
        logger.warning("%s has no picture of %d classes: %s", path, len(absent), names)


def use_pictures(config: dict, made: ClassLists) -> None:
    """Sets, in place, data sets, number of classes, class names and accuracies to those of the lists.

    Args:
        config: as `load_config` returns it.
        made: what `make_lists` returned.

    Raises:
        PpclsExtError: the configuration does not train a classifier on an image list.
    """
    count = len(made.classes)
    for loader, name in (("Train", TRAIN_LIST), ("Eval", VAL_LIST)):
        dataset = ((config.get("DataLoader") or {}).get(loader) or {}).get("dataset")
        if not isinstance(dataset, dict) or dataset.get("name") != "ImageNetDataset":
            raise PpclsExtError(
                f"--data needs a configuration that classifies: DataLoader.{loader}.dataset is no ImageNetDataset"
            )
        dataset.update(image_root=str(made.root), cls_label_path=str((made.folder / name).absolute()))
        dataset.pop("delimiter", None)
    config["Arch"]["class_num"] = count
    config["Global"].pop("class_num", None)
    _set_accuracies(config, count)
    infer = config.get("Infer")
    if isinstance(infer, dict):
        infer["infer_imgs"] = _first_picture(made)
        post_process = infer.setdefault("PostProcess", {})
        post_process["class_id_map_file"] = str((made.folder / LABEL_LIST).absolute())
        post_process.pop("delimiter", None)
        if isinstance(post_process.get("topk"), int):
            post_process["topk"] = min(post_process["topk"], count)
    sampler = config["DataLoader"]["Train"].get("sampler") or {}
    batch = sampler.get("batch_size")
    if isinstance(batch, int) and batch > sum(made.train) and sampler.get("drop_last"):
        sampler["drop_last"] = False
        logger.info("%d pictures are less than a batch of %d: the one batch is smaller", sum(made.train), batch)


def _set_accuracies(config: dict, count: int) -> None:
    """Top-5 of five classes is always 1."""
    for metrics in (config.get("Metric") or {}).values():
        for metric in metrics or ():
            options = metric.get("TopkAcc") if isinstance(metric, dict) else None
            if options:
                topk = options.get("topk", [1, 5])
                topk = topk if isinstance(topk, (list, tuple)) else [topk]
                options["topk"] = [k for k in topk if k < count] or [1]


def _first_picture(made: ClassLists) -> str:
    return str(read_list(made.folder / VAL_LIST, made.root, None)[0].path)


#: Between path and label of a copy: in no absolute, normalised path.
DELIMITER = "//"


def host_reads_list(path: Path, image_root: str, delimiter: str, entries: Sequence[ListEntry]) -> bool:
    """Whether PaddleClas finds in the list at `path` just the images and labels of `entries`."""
    with open(path, encoding="utf-8") as stream:
        lines = [line.strip().split(delimiter) for line in stream]
    if len(lines) != len(entries):
        return False
    return all(
        len(fields) > 1 and Path(image_root, fields[0]) == entry.path and fields[1] == str(entry.label)
        for fields, entry in zip(lines, entries)
    )


def copy_list(entries: Sequence[ListEntry]) -> tuple[Path, str]:
    """Writes `entries` for PaddleClas; returns the file, which lives as long as this process, and its delimiter."""
    images = ((os.path.abspath(entry.path), entry.label) for entry in entries)
    return _write(list_text(images, DELIMITER)), DELIMITER


def host_reads_class_names(path: Path) -> bool:
    """Whether no byte order mark or blank line keeps PaddleClas from reading the class names at `path`."""
    text = path.read_bytes()
    return not text.startswith(b"\xef\xbb\xbf") and all(line.strip() for line in text.splitlines())


def copy_class_names(names: Sequence[str], delimiter: str) -> Path:
    """Writes the names by index for PaddleClas; returns the file, which lives as long as this process."""
    return _write("".join(f"{index}{delimiter}{name}\n" for index, name in enumerate(names)))


def copy_weights(path: Path) -> Path:
    """A copy of weights under a name that PaddleClas takes; it lives as long as this process."""
    return Path(shutil.copy(path, Path(_folder(), f"{path.name.partition('.')[0]}.pdparams")))


def _write(text: str) -> Path:
    handle, name = tempfile.mkstemp(suffix=".txt", dir=_folder())
    os.close(handle)
    write_list(Path(name), text)
    return Path(name)


@functools.cache
def _folder() -> str:
    folder = tempfile.mkdtemp(prefix="ppcls_ext-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder
