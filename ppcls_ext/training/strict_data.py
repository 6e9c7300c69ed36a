"""Evaluation over exactly the images of the list, and training that says which images it could not read.

Where an image cannot be read, PaddleClas's dataset logs an error and hands out a random other image, in evaluation too.
It cannot simply raise: an exception in a data set hangs Paddle's loader for ever when `num_workers` is 0. So, in
evaluation, a replaced image gets a label that no class has, and the loader raises in the main thread. Training goes on
with the replacements while they are few, and counts them.
"""

from __future__ import annotations

import functools
import multiprocessing
import random
import sys
from typing import Any

import numpy as np
import paddle.distributed as dist
from paddle.io import DataLoader, Dataset

from ppcls_ext.errors import PpclsExtError
from ppcls_ext.training.watched_loader import WatchedLoader

MAX_SHARE = 0.01  # of the images of an epoch; training ends where more cannot be read
WHAT_TO_DO = "replace the file or take it off the list"


class StrictLoader(WatchedLoader):
    """A data loader whose batches hold the images of the list, or that raises PpclsExtError.

    Args:
        loader: over PaddleClas's ImageNetDataset.
    """

    def __init__(self, loader: DataLoader) -> None:
        super().__init__(loader, self._check)
        _mark_replacements(loader.dataset)

    def _check(self, batch: list) -> None:
        labels = batch[1].numpy().ravel()
        if (labels < 0).any():
            path = self._loader.dataset.images[-1 - int(labels.min())]
            raise PpclsExtError(f"cannot read {path} (PaddleClas's error line says why): {WHAT_TO_DO}")


class CountingLoader(WatchedLoader):
    """A data loader for training that counts the images that PaddleClas replaces.

    Args:
        loader: over PaddleClas's ImageNetDataset.
    """

    def __init__(self, loader: DataLoader) -> None:
        size = len(loader.dataset) // dist.get_world_size()
        super().__init__(loader, lambda _: self._check(size))
        # images asked for, of these replaced, and the first of those; shared with the processes that load
        self._counts = multiprocessing.Array("q", 3)
        _count_replacements(loader.dataset, self._counts)

    def begin(self) -> None:
        """Starts anew: an epoch begins, and calibration may have read the loader, too."""
        self._counts[:] = [0, 0, 0]

    def report(self, epoch: int) -> None:
        """Logs the count of the epoch that ends now.

        Raises:
            PpclsExtError: more than `MAX_SHARE` of the images could not be read.
        """
        asked, replaced, _ = self._counts
        if replaced:
            from ppcls.utils import logger

            logger.warning(
                f"[Train][Epoch {epoch}] {replaced} of {asked} images could not be read, and others took their place: "
                f"first {self._first()}"
            )
        self._check(asked)

    def _first(self) -> str:
        return self._loader.dataset.images[self._counts[2]]

    def _check(self, size: int) -> None:
        replaced = self._counts[1]
        if replaced > MAX_SHARE * size:
            raise PpclsExtError(
                f"{replaced} of {size} training images, more than {MAX_SHARE:.0%}, cannot be read: first "
                f"{self._first()}; --check-images names them all: {WHAT_TO_DO}"
            )


def count_unreadable(engine: Any) -> None:
    """Makes a training engine count the images that it cannot read, and report them at the end of each epoch."""
    engine.train_dataloader = loader = CountingLoader(engine.train_dataloader)
    train_epoch = engine.train_epoch_func

    @functools.wraps(train_epoch)
    def train_counted_epoch(engine: Any, epoch_id: int, *args: Any) -> None:
        loader.begin()
        train_epoch(engine, epoch_id, *args)
        loader.report(epoch_id)

    engine.train_epoch_func = train_counted_epoch


def is_image_list(dataset: Dataset) -> bool:
    """Whether `dataset` is PaddleClas's plain list of images with one label each."""
    from ppcls.data import ImageNetDataset

    return isinstance(dataset, ImageNetDataset)


def read_first(dataset: Dataset) -> None:
    """Reads the first image, as a check of the transforms: PaddleClas would look for a readable one without end.

    Leaves the random number generators as they were.

    Raises:
        PpclsExtError: it cannot be read or transformed.
    """
    host, states = dataset.__class__, (random.getstate(), np.random.get_state())
    _mark_replacements(dataset, retry=False)
    try:
        dataset[0]
    finally:
        dataset.__class__ = host
        random.setstate(states[0])
        np.random.set_state(states[1])


def _count_replacements(dataset: Dataset, counts: Any) -> None:
    """Makes `dataset` count in `counts` what was asked for, what was replaced, and which was the first of these."""
    host = type(dataset)

    class CountingDataset(host):
        def __getitem__(self, index: int) -> tuple:
            is_replacement = self.depth > 0  # PaddleClas asks for another image from inside
            self.depth += 1
            self.readings += 1
            reading = self.readings
            try:
                return super().__getitem__(index)
            finally:
                self.depth -= 1
                if not is_replacement:
                    with counts.get_lock():
                        counts[0] += 1
                        if self.readings != reading:
                            counts[2] = counts[2] if counts[1] else index
                            counts[1] += 1

    dataset.__class__ = CountingDataset
    dataset.depth = dataset.readings = 0


def _mark_replacements(dataset: Dataset, retry: bool = True) -> None:
    """Makes `dataset` give -1 - index as the label of a replaced image, or raise where `retry` is False."""
    host = type(dataset)

    class MarkingDataset(host):
        def __getitem__(self, index: int) -> tuple:
            self.readings += 1
            reading = self.readings
            # PaddleClas replaces an image by calling __getitem__ again, inside the handler of the error
            if not retry and reading > 1:
                error = sys.exc_info()[1]
                raise PpclsExtError(f"cannot read {self.images[0]}: {type(error).__name__}: {error}; {WHAT_TO_DO}")
            image, label = super().__getitem__(index)
            return image, label if self.readings == reading else np.int64(-1 - index)

    dataset.__class__ = MarkingDataset
    dataset.readings = 0
