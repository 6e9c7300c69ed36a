"""The image lists that a configuration names: read once, their faults reported, and handed to PaddleClas."""

from __future__ import annotations

import atexit
import copy
import dataclasses
import functools
import itertools
import logging
import math
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ppcls_ext.config.best import METRICS
from ppcls_ext.config.checks import LOSSES_OF_SEVERAL, MIXING
from ppcls_ext.config.folder import CONFIG, LISTS
from ppcls_ext.config.load import override
from ppcls_ext.config.schedule import fit_to_images
from ppcls_ext.config.settings import DISTILLATION, RunSettings, distilled_networks, open_run
from ppcls_ext.data.class_folders import (
    LABEL_LIST,
    SHOWN,
    TRAIN_LIST,
    VAL_LIST,
    ClassLists,
    make_lists,
)
from ppcls_ext.data.image_files import find_images
from ppcls_ext.data.label_table import make_label_lists
from ppcls_ext.data.labelled import labelled_folder, require_same_order
from ppcls_ext.data.lists import (
    LARGEST_COMPARED,
    MULTI_LABEL,
    SINGLE_LABEL,
    TAB,
    ImageList,
    list_text,
    overlap,
    read_lines,
    write_list,
)
from ppcls_ext.data.shards import is_there
from ppcls_ext.errors import PpclsExtError
from ppcls_ext.hosts.paddleclas.versions import multi_label_output
from ppcls_ext.progress import progress

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
    with progress("comparing the lists") as report:
        both = overlap(train, evaluation, report)
    if len(train) + len(evaluation) > LARGEST_COMPARED:
        logger.info(
            "%s and %s are compared by the paths of their images, not by contents: more than %d images",
            *(train.path, evaluation.path, LARGEST_COMPARED),
        )
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
    require_same_order(images.path, names, run.class_names_file)


#: Pixels of the input to one of the last maps, along each side, in all of this project's models.
TOTAL_STRIDE = 32
#: Samplers that take every image once. Only PaddleClas knows the others, and which images they leave out.
PLAIN_SAMPLERS = (None, "DistributedBatchSampler", "BatchSampler")


def say_what_is_left_out(run: RunSettings, lists: Mapping[str, ImageList]) -> None:
    """Logs a line for images outside every batch and for classes without images.

    Args:
        run: the prepared settings, without PaddleClas's copies of the lists yet.
        lists: the image lists by loader, Train or Eval.

    Raises:
        PpclsExtError: a list makes no batch at all, or no image of it shows a class.
    """
    from paddle.distributed import get_world_size

    for loader, images in lists.items():
        sampler = run.config["DataLoader"][loader].get("sampler") or {}
        if sampler.get("name") in PLAIN_SAMPLERS and sampler.get("drop_last"):
            _left_out(loader, images, sampler, get_world_size())
        if loader == "Train" and sampler.get("name") in PLAIN_SAMPLERS:
            _say_batches_of_one(run, images, sampler, get_world_size())
    for loader, images in lists.items():
        if images.task == MULTI_LABEL and not images.labels:
            what = "train" if loader == "Train" else "evaluate"
            raise PpclsExtError(
                f"no image of {images.path} shows any class: all labels are 0, and nothing to {what} on"
            )
    if "Train" in lists and not run.config["DataLoader"]["Train"]["dataset"].get("relabel") and run.class_num:
        _say_absent_classes(lists["Train"], run.class_num)


def _left_out(loader: str, images: ImageList, sampler: Mapping[str, Any], processes: int) -> None:
    where, batch = f"DataLoader.{loader}.sampler", sampler["batch_size"]
    batches = math.ceil(len(images) / processes) // batch
    if batches == 0:
        raise PpclsExtError(
            f"{where}.batch_size is {batch}{f' on each of {processes} processes' if processes > 1 else ''}, and "
            f"{images.path} holds {len(images)} images: with drop_last that makes no batch; lower it, or set "
            "drop_last to false"
        )
    left = len(images) - batches * batch * processes
    if left > 0:
        each = "epoch" if loader == "Train" else "evaluation"
        each += ", others each time" if loader == "Train" and sampler.get("shuffle") else ""
        logger.warning(
            "%d of the %d images of %s are left out of each %s: %s.drop_last",
            left,
            len(images),
            images.path,
            each,
            where,
        )


def _say_batches_of_one(run: RunSettings, images: ImageList, sampler: Mapping[str, Any], processes: int) -> None:
    """Logs, in one line, that batch normalisations of maps of one pixel learn nothing from one image."""
    shape = run.section("Global").get("image_shape")
    if not run.arch.is_ours or not isinstance(shape, (list, tuple)) or max(shape[1:]) > TOTAL_STRIDE:
        return
    batch = sampler["batch_size"]
    last = math.ceil(len(images) / processes) % batch
    if batch == 1 or (last == 1 and not sampler.get("drop_last")):
        logger.warning(
            "%s of one image of %d px, whose last maps are 1×1: batch normalisation learns nothing from it; %s",
            *("batches" if batch == 1 else "a last batch", max(shape[1:])),
            "take larger batches" if batch == 1 else "set DataLoader.Train.sampler.drop_last to true",
        )


def _say_absent_classes(images: ImageList, classes: int) -> None:
    highest = classes - 1 if images.task == MULTI_LABEL else max(images.labels)
    if highest + 1 < classes:
        logger.warning(
            "Arch.class_num is %d, and the labels of %s end at %d: the classes from %d have no image",
            *(classes, images.path, highest, highest + 1),
        )
    there = images.labels
    absent = [label for label in range(min(highest + 1, classes)) if label not in there]
    if absent:
        names = ", ".join(map(str, absent[:SHOWN])) + (", …" if len(absent) > SHOWN else "")
        logger.warning("%s has no image of %d classes: %s", images.path, len(absent), names)


def use_lists(config: dict, made: ClassLists) -> None:
    """Sets, in place, data sets, number of classes, class names and metrics to those of the lists.

    A configuration for one class an image becomes one for several where the lists are multi-label ones.

    Args:
        config: the dict from `load_config`.
        made: the lists that `make_lists` or `make_label_lists` wrote.

    Raises:
        PpclsExtError: the configuration does not train a classifier on an image list.
    """
    count, several = len(made.classes), made.task == MULTI_LABEL
    for loader, name in (("Train", TRAIN_LIST), ("Eval", VAL_LIST)):
        dataset = ((config.get("DataLoader") or {}).get(loader) or {}).get("dataset")
        known = ("ImageNetDataset", "MultiLabelDataset") if several else ("ImageNetDataset",)
        if not isinstance(dataset, dict) or dataset.get("name") not in known:
            option = "--labels" if several else "--data (without --labels)"
            raise PpclsExtError(
                f"{option} needs a configuration that classifies: DataLoader.{loader}.dataset is no {known[0]}"
            )
        dataset.update(image_root=str(made.root), cls_label_path=str((made.folder / name).absolute()))
        dataset.pop("delimiter", None)
    config["Arch"]["class_num"] = count
    if config["Arch"].get("name") == DISTILLATION:
        for network in distilled_networks(config["Arch"]).values():
            network.setdefault("class_num", count)  # PaddleClas hands Arch.class_num to none of them
    config["Global"].pop("class_num", None)
    if several:
        _for_several_labels(config)
    else:
        _set_accuracies(config, count)
    infer = config.get("Infer")
    if isinstance(infer, dict):
        infer["infer_imgs"] = _first_image(made)
        if several:
            infer["PostProcess"] = {"name": multi_label_output()}
        post_process = infer.setdefault("PostProcess", {})
        post_process["class_id_map_file"] = str((made.folder / LABEL_LIST).absolute())
        post_process.pop("delimiter", None)
        if isinstance(post_process.get("topk"), int):
            post_process["topk"] = min(post_process["topk"], count)
    sampler = config["DataLoader"]["Train"].get("sampler") or {}
    batch = sampler.get("batch_size")
    images = made.images[0]
    if isinstance(batch, int) and batch > images and sampler.get("drop_last"):
        sampler["drop_last"] = False
        logger.info("%d images are less than a batch of %d: the one batch is smaller", images, batch)


def with_made_lists(
    settings: RunSettings,
    data: str | os.PathLike,
    labels: str | os.PathLike | None = None,
    val_share: float = 0.2,
    split_seed: int = 0,
) -> tuple[RunSettings, ClassLists]:
    """A training's settings with the lists of a folder of images, which are made aside; and these.

    Args:
        settings: the opened configuration.
        data: the folder.
        labels: a table in the place of class folders; see `data.label_table`.
        val_share: see `make_lists`.
        split_seed: see `make_lists`.

    Raises:
        PpclsExtError: the images do not fit, or the configuration does not train a classifier on an image list.
    """
    place = folder_for_lists()
    with progress("reading images") as report:
        if labels is None:
            made = make_lists(data, place, val_share, split_seed, report, channels=settings.channels)
        else:
            made = make_label_lists(data, labels, place, val_share, split_seed, report, settings.channels)
    return dataclasses.replace(with_lists(settings, made), made_lists=place), made


def with_lists(settings: RunSettings, made: ClassLists) -> RunSettings:
    """A copy that names the lists and what follows from them; the user's own settings win."""
    config = copy.deepcopy(settings.config)
    use_lists(config, made)
    override(config, settings.overrides)
    fit_to_images(config, settings.open_fields, made.images[0])
    return dataclasses.replace(settings, config=config)


def _for_several_labels(config: dict) -> None:
    """Makes a configuration for one class an image one for several, in place; one that is already, stays as it is."""
    changes = []
    config["Global"]["use_multilabel"] = True
    losses = config["Loss"] = config.get("Loss") or {}
    for when in ("Train", "Eval"):
        given = losses.get(when) or ()
        if set().union(*given) <= set(LOSSES_OF_SEVERAL):
            continue
        losses[when] = [{"MultiLabelLoss": {"weight": 1.0}}]
        if when == "Train":
            smooths = any((fields or {}).get("epsilon") for loss in given for fields in loss.values())
            smooth = " with label smoothing" if smooths else ""
            changes.append(f"MultiLabelLoss in the place of {', '.join(sorted(set().union(*given)))}{smooth}")
    metrics = (config.get("Metric") or {}).get("Eval") or ()
    if not set().union(*metrics) <= {name for name, kind in METRICS.items() if kind.of == MULTI_LABEL}:
        config["Metric"] = {"Train": None, "Eval": [{"HammingDistance": None}, {"AccuracyScore": None}]}
    for loader in ("Train", "Eval"):
        config["DataLoader"][loader]["dataset"]["name"] = "MultiLabelDataset"
    dataset = config["DataLoader"]["Train"]["dataset"]
    mixing = []
    for operator in list(dataset.get("batch_transform_ops") or ()):
        names = [*operator, *(name for fields in operator.values() for name in fields or ())]
        if not set(names).isdisjoint(MIXING):
            mixing += [name for name in names if name in MIXING]
            dataset["batch_transform_ops"].remove(operator)
    if mixing:
        dataset["batch_transform_ops"] = dataset["batch_transform_ops"] or None
        changes.append(f"no {' and no '.join(mixing)}, for images of one class each")
    if changes:
        logger.info("several labels an image: %s", ", ".join(changes))


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
    mark = TAB if made.task == MULTI_LABEL else " "
    return str(made.root / read_lines(made.folder / VAL_LIST)[0].rpartition(mark)[0])


def evaluate_on(settings: RunSettings, data: str | os.PathLike) -> RunSettings:
    """A copy whose evaluation takes other images.

    Args:
        settings: a configuration that classifies.
        data: an image list, whose paths start from its folder; a folder with one folder per class, or with these in
            test/, val/ or train/, of which the first that is there is taken; or the folder of a run, whose
            evaluation's list is taken.

    Raises:
        PpclsExtError: there is no such list or folder, or one of its classes is not among the configuration's.
    """
    path = Path(data)
    name = "ImageNetDataset" if settings.task == SINGLE_LABEL else "MultiLabelDataset"
    images = {"name": name, "image_root": str(path.parent), "cls_label_path": str(path)}
    delimiter = None
    listed = list_at(path, settings.class_names, settings.task)
    if listed is not None:
        images.update(image_root=str(listed.image_root), cls_label_path=str(listed.path))
        delimiter = listed.delimiter
    elif path.is_dir():
        folder, labels = labelled_folder(path, settings.class_names or (), settings.task)
        images["image_root"] = str(folder)
        images["cls_label_path"] = str(_write(list_text((os.path.abspath(file), label) for file, label in labels)))
    changed = settings.changed("DataLoader")
    dataset = changed.config["DataLoader"]["Eval"]["dataset"]
    dataset.pop("delimiter", None)
    dataset.update(images, **({} if delimiter in (None, TAB) else {"delimiter": delimiter}))
    others = {loader: facts for loader, facts in settings.trained_lists.items() if loader != "Eval"}
    return dataclasses.replace(changed, trained_lists=others)


def list_at(path: Path, names: Sequence[str] | None, task: str) -> ImageList | None:
    """The images of a run that a path means: its folder, or a list in its folder `lists`; None where it means neither.

    The images of such a list are where the run's configuration says, and not beside the list.

    Args:
        path: of a folder or a file.
        names: the classifier's class names by index; None where unknown.
        task: the classifier's.

    Raises:
        PpclsExtError: as of `list_of_run`.
    """
    if (path / CONFIG).is_file():
        return list_of_run(open_run(path), names, task)
    folder = path.absolute().parent
    if folder.name != LISTS or not path.is_file() or not (folder.parent / CONFIG).is_file():
        return None
    run = open_run(folder.parent)
    for loader in ("Eval", "Train"):
        listed = run.dataset(loader).get("cls_label_path")
        if isinstance(listed, str) and os.path.realpath(listed) == os.path.realpath(path):
            return list_of_run(run, names, task, loader)
    return None


def list_of_run(run: RunSettings, names: Sequence[str] | None, task: str, loader: str = "Eval") -> ImageList:
    """The images that a run evaluates on, for another classifier of the same classes.

    Args:
        run: its settings.
        names: the classifier's class names by index; None where unknown.
        task: the classifier's.
        loader: "Eval", or "Train" for those that it is trained on.

    Raises:
        PpclsExtError: the run has no list, it was changed after the training, or its classes are others.
    """
    run.require_trained_list(loader)
    images = run.image_list(loader)
    if images is None:
        raise PpclsExtError(f"{run.folder} evaluates on no image list: give a folder of class folders, or a list")
    if task != run.task:
        raise PpclsExtError(f"the images of {run.folder} are {run.task}, and these weights are {task}")
    theirs = run.class_names
    if names is not None and theirs is not None and tuple(names) != theirs:
        first = next((one for one, other in itertools.zip_longest(theirs, names) if one != other), None)
        raise PpclsExtError(
            f"{run.folder} has {len(theirs)} classes, of which {first!r} is the first that has another place among the "
            f"{len(names)} of these weights: give the folder of the images instead"
        )
    return images


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
    delimiter = TAB if settings.task == MULTI_LABEL else dataset.get("delimiter") or " "
    return _listed_files(Path(path), [Path(root)], delimiter)


def _listed_files(path: Path, roots: list[Path], delimiter: str | None = None) -> list[Path]:
    """The files that a list names, below the first of `roots` that has them.

    Without a delimiter, the label is what follows any space, or the labels what follows a tab.
    """
    found = []
    for number, line in enumerate(read_lines(path), 1):
        name = line.strip()
        if not name:
            continue
        # with a label or without; a path may hold spaces
        parts = (name, name.rsplit(delimiter, 1)[0], *([name.rpartition(TAB)[0]] if delimiter is None else []))
        candidates = [root / part for root in roots for part in parts if part]
        files = (candidate for candidate in candidates if candidate.is_file())
        shards = (candidate for candidate in reversed(candidates) if is_there(str(candidate)))
        file = next(itertools.chain(files, shards), None)
        if file is None:
            raise PpclsExtError(f"{path}:{number}: no image {line!r} below {' or '.join(map(str, roots))}")
        found.append(file)
    return found


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
