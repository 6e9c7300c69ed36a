"""Labelled images to measure a classifier on: those of class folders, or of an image list."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ppcls_ext.data.class_folders import LABEL_LIST, SHOWN, Files, find_labelled_images, require_known
from ppcls_ext.data.image_files import LeftOut, counted
from ppcls_ext.data.lists import MULTI_LABEL, ImageList, read_class_names, read_list
from ppcls_ext.errors import PpclsExtError

logger = logging.getLogger("ppcls_ext")


class LabelledImages(NamedTuple):
    """Image files and what they show.

    Attributes:
        files: (N,) the paths.
        labels: (N,) int64 class indices; of a multi-label list (N, classes) uint8, 0 or 1.
    """

    files: Sequence[str]
    labels: np.ndarray

    @classmethod
    def of_list(cls, images: ImageList) -> LabelledImages:
        """Returns the images of a list."""
        return cls([os.path.join(images.image_root, name) for name in images.names()], images.targets)


def labelled_images(
    data: str | os.PathLike, names: Sequence[str] | None, task: str, whose: str = "file"
) -> LabelledImages:
    """Finds the images to measure a classifier on.

    Args:
        data: an image list, whose paths start from its folder; or a folder as for `labelled_folder`.
        names: the classifier's class names by index; None where it has none.
        task: "single-label" or "multi-label".
        whose: what the classifier is, for messages.

    Raises:
        PpclsExtError: there is no such list or folder, a line or a class is wrong, or the list counts its classes in
            another order than the classifier.
    """
    path = Path(data)
    if path.is_dir():
        _, labels = labelled_folder(path, names or (), task, whose)
        return LabelledImages([str(file) for file, _ in labels], np.array([label for _, label in labels], np.int64))
    images = read_list(path, path.parent, None if names is None else len(names), task=task)
    if names is not None:
        require_same_order(images.path, names, f"the {whose}")
    return LabelledImages.of_list(images)


def labelled_folder(
    path: Path, names: Sequence[str], task: str, whose: str = "run"
) -> tuple[Path, list[tuple[Path, int]]]:
    """Finds the images in class folders, and logs how many there are and which classes have none.

    Args:
        path: a folder with one folder per class, or with these in test/, val/ or train/, of which the first that is
            there is taken.
        names: the class names by index.
        task: "single-label" or "multi-label".
        whose: what has these classes, for messages.

    Returns:
        The folder of the class folders, and each file with its class index.

    Raises:
        PpclsExtError: a folder has the name of no class or of several, there is no image, or the task is multi-label.
    """
    if task == MULTI_LABEL:
        raise PpclsExtError(
            f"{path} is a folder, which says one class an image, and the net tells several: give a list with lines "
            "like name.jpg, a tab and 0,1,1"
        )
    folder, files, left_out = find_labelled_images(path)
    require_known(folder, [name for name, below in files.items() if below], names)
    counts, index = Counter(names), {name: number for number, name in enumerate(names)}
    double = next((name for name, below in files.items() if below and counts[name] > 1), None)
    if double is not None:
        raise PpclsExtError(f"two classes are called {double!r}: give an image list instead of a folder")
    labels = [(file, index[name]) for name, below in files.items() for file in below]
    if not labels:
        raise PpclsExtError(f"{folder} holds no image in the folder of a class ({counted(left_out)})")
    _say_what_is_there(folder, files, names, left_out, whose)
    return folder, labels


def _say_what_is_there(
    folder: Path, files: Files, names: Sequence[str], left_out: Sequence[LeftOut], whose: str
) -> None:
    present = [name for name in names if files.get(name)]
    absent = [name for name in names if not files.get(name)]
    logger.info("%s: %d images of %d classes", folder, sum(map(len, files.values())), len(present))
    if absent:
        shown = ", ".join(absent[:SHOWN]) + (", …" if len(absent) > SHOWN else "")
        logger.warning(
            "%s has no image of %d of the %s's %d classes: %s", folder, len(absent), whose, len(names), shown
        )
    if left_out:
        logger.info("%s: left out: %s", folder, counted(left_out))


def require_same_order(path: Path, names: Sequence[str], source: object) -> None:
    """Checks that a list counts its classes as a classifier does, where their names stand beside the list.

    Args:
        path: the list; `make_lists` writes the names beside it.
        names: the classifier's class names by index.
        source: where these are from, for the message.

    Raises:
        PpclsExtError: a class has another index there; every label would be wrong.
    """
    beside = path.parent / LABEL_LIST
    if not beside.is_file():
        return
    try:
        found = read_class_names(beside)
    except PpclsExtError:
        return  # a file of another kind
    known = {name: index for index, name in enumerate(names)}
    for index, name in enumerate(found):
        if name in known and tuple(names[index : index + 1]) != (name,):
            raise PpclsExtError(
                f"{path} counts classes as {beside} does, where {name!r} is {index}, and in "
                f"{source} it is {known[name]}: make the lists with ppcls-ext make-lists "
                "--classes-of RUN, or give the folder of the images (--data FOLDER)"
            )
