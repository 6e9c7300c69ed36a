"""Faults of data loaders: images that cannot be read, and loading processes that die.

An evaluation reads exactly the images of its list, or ends. A training goes on with others in the place of images that
cannot be read while these are few, and counts them.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator
from typing import Any

import paddle.distributed as dist

from ppcls_ext.errors import PpclsExtError, one_line, unwrapped
from ppcls_ext.hosts.paddleclas.image_lists import WHAT_TO_DO, is_image_list

MAX_SHARE = 0.01  # of the images of an epoch; training ends where more cannot be read


def require_read(dataset: Any) -> None:
    """Raises PpclsExtError where an image could not be read, nor another one in its place, or a batch not be made.

    Args:
        dataset: of the batches that were read so far.
    """
    if is_image_list(dataset) and dataset.listed.failure:
        raise PpclsExtError(dataset.listed.failure)


class UnreadableImages:
    """Counts the images of a training that others replace; of data that is no list of images it knows nothing.

    Args:
        dataset: PaddleClas's; None for DALI's.
    """

    def __init__(self, dataset: Any) -> None:
        self._dataset, self._size = dataset, 0
        self._counts: Any = [0, 0, 0]
        if is_image_list(dataset):
            self._size = len(dataset) // dist.get_world_size()
            self._counts = dataset.listed.counts

    def begin(self) -> None:
        """Starts anew: an epoch begins, and calibration may have read the images, too."""
        self._counts[:] = [0, 0, 0]

    def check(self) -> None:
        """Raises PpclsExtError where more than `MAX_SHARE` of the images could not be read, or too many in a row."""
        self._check(self._size)

    def report(self, epoch: int) -> None:
        """Logs the count of the epoch that ends now.

        Raises:
            PpclsExtError: more than `MAX_SHARE` of the images could not be read, or too many in a row.
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
        return self._dataset.images[self._counts[2]]

    def _check(self, size: int) -> None:
        require_read(self._dataset)
        replaced = self._counts[1]
        if replaced > MAX_SHARE * size:
            raise PpclsExtError(
                f"{replaced} of {size} training images, more than {MAX_SHARE:.0%}, cannot be read: first "
                f"{self._first()}; --check-images names them all: {WHAT_TO_DO}"
            )


@contextlib.contextmanager
def explained_workers(what_now: Callable[[], str] = lambda: "run it again") -> Iterator[None]:
    """Turns the death of one of Paddle's loading processes in its body into a PpclsExtError.

    Args:
        what_now: gives the end of the message.
    """
    try:
        yield
    except (SystemError, RuntimeError, OSError) as error:
        # Paddle's C++ handler of SIGCHLD, and io/dataloader/dataloader_iter.py
        text = one_line(unwrapped(error))
        died = re.search(r"DataLoader (process|\d+ workers?) .*?exit.*|Blocking queue is killed", text)
        if died is None:
            raise
        how = re.sub(r"\s*\(at .*", "", died.group())
        raise PpclsExtError(
            f"a process that loads images died ({how}): mostly memory ran out; lower loader.num_workers or "
            f"sampler.batch_size below DataLoader (or, after a bus error, set loader.use_shared_memory to false); "
            f"{what_now()}"
        ) from error
