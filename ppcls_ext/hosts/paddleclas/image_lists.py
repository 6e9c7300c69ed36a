"""PaddleClas's data sets of a list of images, with the list and the reading of images ours.

`ImageNetDataset` and `MultiLabelDataset` parse a list anew, into several objects a line, and misread some. They read
whatever has the name of an image, a FIFO too, and where that fails they log an error and call themselves for a random
other image, in evaluation too, until one can be read.

They cannot simply raise: an exception in a data set or behind it hangs Paddle's loader for ever when `num_workers` is 0
(paddle/io/dataloader/dataloader_iter.py: its thread ends and leaves the queue open). So what is made here notes what
failed where all processes see it, and goes on with an image that could be read; `training.loaders` raises in the main
thread.
"""

from __future__ import annotations

import contextlib
import functools
import multiprocessing
import os
import random
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, overload

import numpy as np
from paddle.io.dataloader.collate import default_collate_fn

from ppcls_ext.data.image_files import decode, read_image
from ppcls_ext.data.image_rule import RGB
from ppcls_ext.data.lists import MULTI_LABEL, SINGLE_LABEL, ImageList
from ppcls_ext.errors import PpclsExtError, one_line
from ppcls_ext.hosts.adaptation import patch
from ppcls_ext.hosts.paddleclas.registry import publish

WHAT_TO_DO = "replace the file or take it off the list"
MOST_IN_A_ROW = 10
"""Images that cannot be read, one in the place of the other, before a training ends: 1 % of all may be so."""
LONGEST_FAILURE = 1 << 13
"""Bytes of the reason why images cannot be used any more, which names a path."""


def hand_over(dataset: dict, images: ImageList, evaluates: bool, channels: int = RGB) -> None:
    """Makes PaddleClas build, from the section of a data set, one of a list that was read.

    Args:
        dataset: the section, `DataLoader.*.dataset`; changed in place.
        images: its list.
        evaluates: whether each image counts, or another one may take its place.
        channels: of the images.
    """
    made = data_sets()[images.task]
    publish(made)
    dataset.update(name=made.__name__, listed=Listed(images, evaluates, channels))


class Listed:
    """A list and what became of its images, shared by all data sets that PaddleClas builds of it and all processes.

    Attributes:
        images: the list.
        evaluates: whether each image counts, or another one may take its place.
        channels: of the images.
        counts: images asked for, of these replaced, and the index of the first of these.
        stand_in: the bytes of an image that can be read; empty before `ListedDataset.read_first`.
    """

    def __init__(self, images: ImageList, evaluates: bool, channels: int = RGB) -> None:
        self.images, self.evaluates, self.channels = images, evaluates, channels
        try:
            lock: Any = multiprocessing.RLock()
        except OSError:  # no room for it in /dev/shm, and no processes then (loader_processes)
            lock = threading.RLock()
        self.counts: Any = multiprocessing.Array("q", 3, lock=lock)
        self._failure: Any = multiprocessing.Array("c", LONGEST_FAILURE, lock=lock)
        self.stand_in = b""

    def __deepcopy__(self, memo: dict) -> Listed:
        return self  # PaddleClas copies its configuration

    def __repr__(self) -> str:
        return repr(self.images)  # PaddleClas logs its configuration

    @property
    def failure(self) -> str:
        """Why the images cannot be used any more; empty while they can."""
        return self._failure.value.decode(errors="ignore")

    def fail(self, why: str) -> None:
        """Notes that the images cannot be used any more; the first reason stays."""
        with self._failure.get_lock():
            if not self._failure.value:
                text = why.encode()[: LONGEST_FAILURE - 1]
                self._failure[: len(text)] = text

    def count(self, index: int, replaced: bool) -> None:
        """Adds an image that was asked for."""
        with self.counts.get_lock():
            self.counts[0] += 1
            if replaced:
                self.counts[2] = self.counts[2] if self.counts[1] else index
                self.counts[1] += 1

    def keep(self, data: bytes) -> None:
        """Keeps the bytes of an image for where none can be read: a batch has to be whole to be refused."""
        self.stand_in = data


class Paths(Sequence[str]):
    """The paths of a list's images, as PaddleClas has them, each made when it is asked for."""

    def __init__(self, images: ImageList) -> None:
        self._images, self._root = images, str(images.image_root)

    def __len__(self) -> int:
        return len(self._images)

    @overload
    def __getitem__(self, index: int) -> str: ...

    @overload
    def __getitem__(self, index: slice) -> list[str]: ...

    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        return os.path.join(self._root, self._images.name(index))


class ListedDataset:
    """What this project puts in front of PaddleClas's data sets of a list; see `data_sets`.

    Args:
        listed: the list.
        **options: PaddleClas's.
    """

    images: Paths
    labels: np.ndarray

    def __init__(self, listed: Listed, **options: Any) -> None:
        self.listed = listed
        super().__init__(**options)

    def _load_anno(self, label_ratio: Any = False) -> np.ndarray | None:
        """PaddleClas's hook that reads the list; returns the classes' shares where they are asked for."""
        images = self.listed.images
        self.images, self.labels = Paths(images), images.targets
        if getattr(self, "relabel", False):
            self.labels = renumbered(images.targets)
        return images.targets.mean(0).astype("float32") if label_ratio else None

    def __getitem__(self, index: int) -> tuple:
        listed, taken, faults = self.listed, index, []
        for _ in range(1 if listed.evaluates else MOST_IN_A_ROW):
            try:
                image = self._transformed(read_image(self.images[taken]))
            except Exception as error:
                faults.append(f"{type(error).__name__}: {one_line(error)}")
                if not listed.failure:  # otherwise all ends soon
                    _log(f"cannot read {self.images[taken]}: {faults[-1]}")
                taken = np.random.randint(len(self))  # as PaddleClas draws it: the same seed trains on the same images
                continue
            listed.count(index, replaced=bool(faults))
            return image, self._label(taken)
        others = "" if listed.evaluates else f", nor {MOST_IN_A_ROW - 1} others in its place"
        listed.fail(f"cannot read {self.images[index]}{others}: {faults[0]}; {WHAT_TO_DO}")
        return self._transformed(listed.stand_in), self._label(index)

    def __len__(self) -> int:
        return len(self.images)

    @property
    def class_num(self) -> int:
        """The number of different labels."""
        return len(np.unique(self.labels))

    def _transformed(self, data: bytes) -> np.ndarray:
        from ppcls.data.preprocess import transform

        operators = self._operators()
        image: Any = transform(data, operators) if operators else data
        return image.transpose((2, 0, 1))

    def _operators(self) -> Sequence[Any]:
        return getattr(self, "_transform_ops", None) or ()

    def _label(self, index: int) -> Any:
        if self.listed.images.task == SINGLE_LABEL:
            return self.labels[index]
        label, ratio = self.labels[index].astype("float32"), getattr(self, "label_ratio", None)
        return np.array([label, ratio]) if isinstance(ratio, np.ndarray) else label

    def read_first(self, loader: str) -> None:
        """Reads the first image, as a check of the transforms, and keeps it as the one that can be read.

        Leaves the random number generators as they were.

        Args:
            loader: its path in the configuration, such as "DataLoader.Train".

        Raises:
            PpclsExtError: it cannot be read, or a transform fails on it or makes something else than an input.
        """
        path, where = self.images[0], f"{loader}.dataset.transform_ops"
        states = random.getstate(), np.random.get_state()
        try:
            data = read_image(path)
            image = self._transformed(data)
        except Exception as error:
            require_transforms(path, self._operators(), where, self.listed.channels)
            raise PpclsExtError(
                f"cannot read {path}: {type(error).__name__}: {one_line(error)}; {WHAT_TO_DO}"
            ) from error
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])
        require_input(image, where, self.listed.channels)
        self.listed.keep(data)


@functools.cache
def data_sets() -> dict[str, type]:
    """PaddleClas's data sets of a list, by the task, that take a `Listed` and read images themselves."""
    from ppcls.data import ImageNetDataset, MultiLabelDataset

    class ListedImages(ListedDataset, ImageNetDataset):
        """Images of one class each."""

    class ListedMultiLabelImages(ListedDataset, MultiLabelDataset):
        """Images with a 0 or 1 for each class."""

    return {SINGLE_LABEL: ListedImages, MULTI_LABEL: ListedMultiLabelImages}


def renumbered(labels: np.ndarray) -> np.ndarray:
    """Labels from 0 on without gaps, in the order in which PaddleClas's `relabel` counts them: that of a set."""
    values, first = np.unique(labels, return_index=True)
    seen: set[int] = set()
    for value in values[np.argsort(first)].tolist():
        seen.add(value)  # one by one: the order depends on it
    new = {old: number for number, old in enumerate(seen)}
    return np.array([new[value] for value in values.tolist()], np.int64)[np.searchsorted(values, labels)]


def _log(text: str) -> None:
    from ppcls.utils import logger

    logger.error(text)


def note_failures(loader: Any) -> None:
    """Makes a loader note where the images of a batch do not go together, instead of waiting for ever.

    Args:
        loader: Paddle's, of a list that was handed over.
    """
    _collate_by(loader, _noting(loader.collate_fn or default_collate_fn, loader.dataset.listed))


@contextlib.contextmanager
def unmixed(loader: Any) -> Iterator[None]:
    """A context in which a loader's batches are not mixed: `batch_transform_ops` are left out."""
    mixing, dataset = loader.collate_fn, loader.dataset
    _collate_by(loader, _noting(default_collate_fn, dataset.listed) if is_image_list(dataset) else None)
    try:
        yield
    finally:
        _collate_by(loader, mixing)


def _noting(collate: Callable, listed: Listed) -> Callable:
    @functools.wraps(collate)
    def collate_or_note(batch: list) -> Any:
        try:
            return collate(batch)
        except Exception as error:
            listed.fail(
                f"the images of a batch do not go together: {type(error).__name__}: {one_line(error)}; let the "
                "transforms crop them all to one size, or mend batch_transform_ops"
            )
            return default_collate_fn([batch[0]] * len(batch))

    return collate_or_note


def _collate_by(loader: Any, collate: Callable | None) -> None:
    patch(loader, "collate_fn", collate)


def is_image_list(dataset: Any) -> bool:
    """Returns whether `dataset` is a list of images that was handed over to PaddleClas."""
    return isinstance(dataset, ListedDataset)


def require_transforms(path: str, operators: Sequence[Any], where: str, channels: int = RGB) -> None:
    """Raises PpclsExtError where it is not the image but one of the transforms that fails.

    Args:
        path: of an image.
        operators: PaddleClas's, as built.
        where: the path of their list in the configuration.
        channels: of the images.
    """
    try:
        value: Any = read_image(path)
        decode(value, channels=channels)
    except (OSError, PpclsExtError):
        return
    for index, operator in enumerate(operators):
        try:
            value = operator(value)
        except PpclsExtError:
            return  # about the image
        except Exception as error:
            name = type(operator).__name__
            raise PpclsExtError(
                f"{where}.{index}.{name} fails on {path}, which can be read: {one_line(error)}; mend its options"
            ) from error


def require_input(image: Any, where: str, channels: int = RGB) -> None:
    """Raises PpclsExtError where what the transforms make of an image is no input of a network.

    Args:
        image: what they made.
        where: the path of their list in the configuration.
        channels: of the images.
    """
    if not isinstance(image, np.ndarray) or image.dtype.kind != "f":
        kind = image.dtype if isinstance(image, np.ndarray) else type(image).__name__
        raise PpclsExtError(f"{where} makes {kind}, and a network takes floats: NormalizeImage is missing")
    if image.ndim != 3 or image.shape[0] != channels:
        raise PpclsExtError(
            f"{where} makes an image of shape {image.shape}: expected ({channels}, height, width); mend channel_first "
            "and order"
        )
