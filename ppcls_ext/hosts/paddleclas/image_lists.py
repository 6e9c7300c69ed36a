"""PaddleClas's data sets of a list of images, made to tell which images they could not read.

Where an image cannot be read, `ImageNetDataset` and `MultiLabelDataset` log an error and give a random other image, in
evaluation too. They cannot simply raise: an exception in a data set hangs Paddle's loader for ever when `num_workers`
is 0. So they count the images that they replace, or mark them in their labels; `training.loaders` raises in the main
thread.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
from paddle.io import Dataset

from ppcls_ext.data.image_files import decode, read_image
from ppcls_ext.errors import PpclsExtError, one_line
from ppcls_ext.hosts.adaptation import patch

WHAT_TO_DO = "replace the file or take it off the list"


def is_image_list(dataset: Any) -> bool:
    """Returns whether `dataset` is PaddleClas's list of images with one class each, or with a 0 or 1 for each class."""
    from ppcls.data import ImageNetDataset, MultiLabelDataset

    return isinstance(dataset, (ImageNetDataset, MultiLabelDataset))


def read_first(dataset: Dataset, loader: str) -> None:
    """Reads the first image, as a check of the transforms: PaddleClas would look for a readable one without end.

    Leaves the random number generators as they were.

    Args:
        dataset: PaddleClas's.
        loader: its path in the configuration, such as "DataLoader.Train".

    Raises:
        PpclsExtError: it cannot be read, or a transform fails on it or makes something else than an input.
    """
    host, states = dataset.__class__, (random.getstate(), np.random.get_state())
    mark_replacements(dataset, retry=False)
    try:
        image, _ = dataset[0]
    except PpclsExtError:
        require_transforms(dataset.images[0], dataset._transform_ops or (), f"{loader}.dataset.transform_ops")
        raise
    finally:
        patch(dataset, "__class__", host)
        random.setstate(states[0])
        np.random.set_state(states[1])
    require_input(image, f"{loader}.dataset.transform_ops")


def require_transforms(path: str, operators: Sequence[Any], where: str) -> None:
    """Raises PpclsExtError where it is not the image but one of the transforms that fails.

    Args:
        path: of an image.
        operators: PaddleClas's, as built.
        where: the path of their list in the configuration.
    """
    try:
        value: Any = read_image(path)
        decode(value)
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


def require_input(image: Any, where: str) -> None:
    """Raises PpclsExtError where what the transforms make of an image is no input of a network.

    Args:
        image: what they made.
        where: the path of their list in the configuration.
    """
    if not isinstance(image, np.ndarray) or image.dtype.kind != "f":
        kind = image.dtype if isinstance(image, np.ndarray) else type(image).__name__
        raise PpclsExtError(f"{where} makes {kind}, and a network takes floats: NormalizeImage is missing")
    if image.ndim != 3 or image.shape[0] != 3:
        raise PpclsExtError(
            f"{where} makes an image of shape {image.shape}: expected (3, height, width); mend channel_first and order"
        )


def count_replacements(dataset: Dataset, counts: Any) -> None:
    """Makes `dataset` count in `counts` what was asked for, what was replaced, and which was the first of these."""
    host: Any = type(dataset)

    class CountingDataset(host):
        depth = readings = 0

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

    patch(dataset, "__class__", CountingDataset)


def mark_replacements(dataset: Dataset, retry: bool = True) -> None:
    """Makes `dataset` give -1 - index as all labels of a replaced image, or raise where `retry` is False."""
    host: Any = type(dataset)

    class MarkingDataset(host):
        readings = 0

        def __getitem__(self, index: int) -> tuple:
            self.readings += 1
            reading = self.readings
            # PaddleClas replaces an image by calling __getitem__ again, inside the handler of the error
            if not retry and reading > 1:
                error = sys.exc_info()[1]
                raise PpclsExtError(f"cannot read {self.images[0]}: {type(error).__name__}: {error}; {WHAT_TO_DO}")
            image, label = super().__getitem__(index)
            if self.readings == reading:
                return image, label
            # labels of several classes are float32, which holds the indices of 16 million images
            return image, np.full_like(label, -1 - index) if np.ndim(label) else np.int64(-1 - index)

    patch(dataset, "__class__", MarkingDataset)
