"""The image lists that a configuration names: read once, their faults reported, and handed to PaddleClas."""

from __future__ import annotations

import atexit
import dataclasses
import functools
import logging
import math
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from ppcls_ext.config.folder import CONFIG
from ppcls_ext.config.settings import RunSettings, open_run
from ppcls_ext.data.class_folders import (
    LABEL_LIST,
    SHOWN,
    TRAIN_LIST,
    VAL_LIST,
    ClassLists,
    Files,
    find_labelled_images,
    require_known,
)
from ppcls_ext.data.image_files import LeftOut, counted, find_images
from ppcls_ext.data.lists import ImageList, ListEntry, list_text, overlap, read_class_names, read_lines, write_list
from ppcls_ext.errors import PpclsExtError

logger = logging.getLogger("ppcls_ext")


def read_lists(run: RunSettings, mode: str) -> dict[str, ImageList]:
    """The plain image lists that `mode` uses, by loader, with labels and files checked.

    Raises:
        PpclsExtError: a list has a fault; the message begins with file and line of the first one.
    """
    for loader in _loaders(run.config, mode):
        run.require_trained_list(loader)
    lists = {loader: run.image_list(loader) for loader in _loaders(run.config, mode)}
    return {loader: images for loader, images in lists.items() if images is not None}


def _loaders(config: dict, mode: str) -> tuple[str, ...]:
    if mode == "train":
        return ("Train", "Eval") if config["Global"]["eval_during_train"] else ("Train",)
    return ("Eval",) if mode == "eval" else ()


def warn_about_overlap(train: ImageList, evaluation: ImageList) -> None:
    """Logs, in one line, that images to evaluate on are trained on too."""
    both = overlap(train, evaluation)
    if both:
        logger.warning(
            "%d of the %d images of %s are training images too, so its metrics say little about new ones: first %s",
            *(len(both), len(evaluation), evaluation.path, both[0]),
        )


def require_same_classes(run: RunSettings, images: ImageList) -> None:
    """Checks that a list counts its classes as the run does, where `make_lists` has written their names beside it.

    Raises:
        PpclsExtError: a class has another index there; every label would be wrong.
    """
    beside = images.path.parent / LABEL_LIST
    names = run.class_names if run.arch.is_ours and beside.is_file() else None
    if names is None or run.class_names_file is None or os.path.samefile(beside, run.class_names_file):
        return
    try:
        found = read_class_names(beside)
    except PpclsExtError:
        return  # a file of another kind
    known = {name: index for index, name in enumerate(names)}
    for index, name in enumerate(found):
        if name in known and names[index : index + 1] != (name,):
            raise PpclsExtError(
                f"{images.path} counts classes as {beside} does, where {name!r} is {index}, and in "
                f"{run.class_names_file} it is {known[name]}: make the lists with ppcls-ext make-lists "
                "--classes-of RUN, or give the folder to ppcls-ext eval RUN --data FOLDER"
            )


def give_host_a_list(dataset: dict, images: ImageList) -> None:
    """Makes the data set name a copy of its list where PaddleClas would misread the list itself."""
    if not images.is_plain:
        copy, dataset["delimiter"] = copy_list(images)
        dataset["cls_label_path"] = str(copy)
        logger.debug("%s has paths or lines that PaddleClas misreads: it gets the copy %s", images.path, copy)


#: Samplers that take every image once. Only PaddleClas knows the others, and which images they leave out.
PLAIN_SAMPLERS = (None, "DistributedBatchSampler", "BatchSampler")


def say_what_is_left_out(run: RunSettings, lists: Mapping[str, ImageList]) -> None:
    """Logs a line for images outside every batch and for classes without images.

    Args:
        run: the prepared settings, without PaddleClas's copies of the lists yet.
        lists: the image lists by loader, Train or Eval.

    Raises:
        PpclsExtError: a list makes no batch at all.
    """
    from paddle.distributed import get_world_size

    for loader, images in lists.items():
        sampler = run.config["DataLoader"][loader].get("sampler") or {}
        if sampler.get("name") in PLAIN_SAMPLERS and sampler.get("drop_last"):
            _left_out(loader, images, sampler["batch_size"], get_world_size())
    if "Train" in lists and not run.config["DataLoader"]["Train"]["dataset"].get("relabel") and run.class_num:
        _say_absent_classes(lists["Train"], run.class_num)


def _left_out(loader: str, images: ImageList, batch: int, processes: int) -> None:
    where = f"DataLoader.{loader}.sampler"
    batches = math.ceil(len(images) / processes) // batch
    if batches == 0:
        raise PpclsExtError(
            f"{where}.batch_size is {batch}{f' on each of {processes} processes' if processes > 1 else ''}, and "
            f"{images.path} holds {len(images)} images: with drop_last that makes no batch; lower it, or set "
            "drop_last to false"
        )
    left = len(images) - batches * batch * processes
    if left > 0:
        logger.warning(
            "%d of the %d images of %s are left out of each %s: %s.drop_last",
            *(left, len(images), images.path, "epoch" if loader == "Train" else "evaluation", where),
        )


def _say_absent_classes(images: ImageList, classes: int) -> None:
    highest = max(images.labels)
    if highest + 1 < classes:
        logger.warning(
            "Arch.class_num is %d, and the labels of %s end at %d: the classes from %d have no image",
            *(classes, images.path, highest, highest + 1),
        )
    absent = [label for label in range(min(highest, classes)) if label not in images.labels]
    if absent:
        names = ", ".join(map(str, absent[:SHOWN])) + (", …" if len(absent) > SHOWN else "")
        logger.warning("%s has no image of %d classes: %s", images.path, len(absent), names)


def use_lists(config: dict, made: ClassLists) -> None:
    """Sets, in place, data sets, number of classes, class names and accuracies to those of the lists.

    Args:
        config: the dict from `load_config`.
        made: the lists that `make_lists` wrote.

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
        infer["infer_imgs"] = _first_image(made)
        post_process = infer.setdefault("PostProcess", {})
        post_process["class_id_map_file"] = str((made.folder / LABEL_LIST).absolute())
        post_process.pop("delimiter", None)
        if isinstance(post_process.get("topk"), int):
            post_process["topk"] = min(post_process["topk"], count)
    sampler = config["DataLoader"]["Train"].get("sampler") or {}
    batch = sampler.get("batch_size")
    if isinstance(batch, int) and batch > sum(made.train) and sampler.get("drop_last"):
        sampler["drop_last"] = False
        logger.info("%d images are less than a batch of %d: the one batch is smaller", sum(made.train), batch)


def _set_accuracies(config: dict, count: int) -> None:
    """Top-5 of five classes is always 1."""
    for metrics in (config.get("Metric") or {}).values():
        for metric in metrics or ():
            options = metric.get("TopkAcc") if isinstance(metric, dict) else None
            if options:
                topk = options.get("topk", [1, 5])
                topk = topk if isinstance(topk, (list, tuple)) else [topk]
                options["topk"] = [k for k in topk if k < count] or [1]


def _first_image(made: ClassLists) -> str:
    return str(made.root / read_lines(made.folder / VAL_LIST)[0].rpartition(" ")[0])


def evaluate_on(settings: RunSettings, data: str | os.PathLike) -> RunSettings:
    """A copy whose evaluation takes other images.

    Args:
        settings: a configuration that classifies.
        data: an image list, whose paths start from its folder; or a folder with one folder per class, or with these in
            test/, val/ or train/, of which the first that is there is taken.

    Raises:
        PpclsExtError: there is no such list or folder, or one of its classes is not among the configuration's.
    """
    path = Path(data)
    images = {"name": "ImageNetDataset", "image_root": str(path.parent), "cls_label_path": str(path)}
    if path.is_dir():
        folder, files, left_out = find_labelled_images(path)
        names = settings.class_names or ()
        require_known(folder, [name for name, below in files.items() if below], names)
        double = next((name for name, below in files.items() if below and names.count(name) > 1), None)
        if double is not None:
            raise PpclsExtError(f"two classes are called {double!r}: give an image list instead of a folder")
        entries = [ListEntry(file, names.index(name), 0) for name, below in files.items() for file in below]
        if not entries:
            raise PpclsExtError(f"{folder} holds no image in the folder of a class ({counted(left_out)})")
        images["image_root"] = str(folder)
        images["cls_label_path"], images["delimiter"] = map(str, copy_list(entries))
        _say_what_is_evaluated(folder, files, names, left_out)
    changed = settings.changed("DataLoader")
    dataset = changed.config["DataLoader"]["Eval"]["dataset"]
    dataset.pop("delimiter", None)
    dataset.update(images)
    others = {loader: facts for loader, facts in settings.trained_lists.items() if loader != "Eval"}
    return dataclasses.replace(changed, trained_lists=others)


def _say_what_is_evaluated(folder: Path, files: Files, names: Sequence[str], left_out: Sequence[LeftOut]) -> None:
    present = [name for name in names if files.get(name)]
    absent = [name for name in names if name not in present]
    logger.info("%s: %d images of %d classes", folder, sum(map(len, files.values())), len(present))
    if absent:
        shown = ", ".join(absent[:SHOWN]) + (", …" if len(absent) > SHOWN else "")
        logger.warning("%s has no image of %d of the run's %d classes: %s", folder, len(absent), len(names), shown)
    if left_out:
        logger.info("%s: left out: %s", folder, counted(left_out))


def images_in(place: str | os.PathLike | None, settings: RunSettings) -> list[Path]:
    """The image files of a place.

    Args:
        place: an image list (labels may be missing), a folder with images in it or below it, or the folder of a
            training; None for the training images of `settings`.
        settings: the configuration of the model.

    Raises:
        PpclsExtError: there are none, or a list names an image that does not exist.
    """
    if place is None:
        return _training_images(settings, "the configuration")
    path = Path(place)
    if (path / CONFIG).is_file():
        return _training_images(open_run(path), str(path / CONFIG))
    if path.is_dir():
        return find_images([str(path)])
    root = settings.dataset("Train").get("image_root")
    return _listed_files(path, [path.parent, *([Path(root)] if root else [])])


def _training_images(settings: RunSettings, where: str) -> list[Path]:
    dataset = settings.dataset("Train")
    path, root = dataset.get("cls_label_path"), dataset.get("image_root")
    if not (isinstance(path, str) and isinstance(root, str)):
        raise PpclsExtError(f"{where} names no training images (DataLoader.Train.dataset): give --calibration PLACE")
    settings.require_trained_list("Train")
    return _listed_files(Path(path), [Path(root)], dataset.get("delimiter") or " ")


def _listed_files(path: Path, roots: list[Path], delimiter: str | None = None) -> list[Path]:
    """The files that a list names, below the first of `roots` that has them; None: the label is behind any space."""
    found = []
    for number, line in enumerate(read_lines(path), 1):
        name = line.strip()
        if not name:
            continue
        # with a label or without; a path may hold spaces
        candidates = [root / part for root in roots for part in (name, name.rsplit(delimiter, 1)[0]) if part]
        file = next((candidate for candidate in candidates if candidate.is_file()), None)
        if file is None:
            raise PpclsExtError(f"{path}:{number}: no image {line!r} below {' or '.join(map(str, roots))}")
        found.append(file)
    return found


#: Between path and label of a copy: in no absolute, normalised path.
DELIMITER = "//"


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


def folder_for_lists() -> Path:
    """A new folder for the lists of a training that is to begin; it lives as long as this process."""
    return Path(tempfile.mkdtemp(prefix="lists-", dir=_folder()))


@functools.cache
def _folder() -> str:
    folder = tempfile.mkdtemp(prefix="ppcls_ext-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder
