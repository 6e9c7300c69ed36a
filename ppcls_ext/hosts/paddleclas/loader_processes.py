"""The processes of Paddle's loaders: they end with the one they load for, and the memory they share has to be there.

Paddle gives batches from process to process in files below /dev/shm. Where that is full, as in containers with 64 MB of
it, writing to such a file ends the process with a bus error, and the training waits for ever.
"""

from __future__ import annotations

import gc
import mmap
import multiprocessing
import os
import random
import signal
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ppcls_ext.hosts.adaptation import mentions, patch
from ppcls_ext.processes import end_with_parent

SHARED_MEMORY = Path("/dev/shm")
PLENTY = 8 << 30
"""Bytes from which on nothing is computed."""
SIGNALS = ("SIGHUP", "SIGQUIT")
"""What a terminal sends to all processes: the one that trains answers."""


def outlive_their_parent() -> bool:
    """Returns whether Paddle's loading processes wait for ever when the process they load for is killed.

    They mean to look for it every few seconds, but `Queue.get` takes the seconds as its argument `block`.
    """
    from paddle.io.dataloader import dataloader_iter, worker

    return dataloader_iter._worker_loop is worker._worker_loop and mentions(
        worker, "indices_queue.get(MP_STATUS_CHECK_INTERVAL)"
    )


def end_with_their_parent() -> None:
    """Makes the processes that Paddle's loaders start end with the process that started them."""
    from paddle.io.dataloader import dataloader_iter

    patch(dataloader_iter, "_worker_loop", load)


def load(*arguments: Any) -> None:
    """What a loading process runs: Paddle's loop, until it is done or the parent has ended, however that ended."""
    from paddle.io import multiprocess_utils
    from paddle.io.dataloader import worker

    gc.freeze()  # Paddle's predictors, of which the parent may have left some, crash where a forked process ends them
    parent = os.getppid()
    started_by = multiprocessing.parent_process()
    if multiprocessing.get_start_method(allow_none=True) == "fork" and started_by and started_by.pid != parent:
        os._exit(1)  # it ended in the meantime

    def end_if_orphaned(*_: object) -> None:
        if os.getppid() != parent:
            multiprocess_utils._cleanup_mmap()  # or batches on their way would stay in /dev/shm
            os._exit(1)

    for name in SIGNALS:
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), end_if_orphaned)
    if hasattr(signal, "SIGHUP"):
        end_with_parent(signal.SIGHUP)
    worker._worker_loop(*arguments)


def end_loading(iterator: Any) -> None:
    """Ends the processes of a loader's iterator, which Paddle ends only where the iterator is read to its end."""
    shut_down = getattr(iterator, "_try_shutdown_all", None)
    if shut_down is not None:
        shut_down()


def batches_of(loader: Iterable[Any]) -> Iterator[Any]:
    """Gives what a loader gives; its processes end with the last batch that is wanted, or with an error in between."""
    iterator = iter(loader)
    try:
        yield from iterator
    finally:
        end_loading(iterator)


def fit_shared_memory(loaders: Mapping[str, Any], processes: int = 1, folder: Path = SHARED_MEMORY) -> str:
    """Lets loaders do without shared memory, or without processes, where there is too little of it.

    Args:
        loaders: Paddle's, by their names in the configuration; of the data sets, the first image can be read.
        processes: that train on this machine.
        folder: where shared memory is.

    Returns:
        A line that says what was done and why; empty where nothing was.
    """
    loaders = {name: loader for name, loader in loaders.items() if getattr(loader, "num_workers", 0)}
    free = _free(folder)
    if not loaders or free is None or free >= PLENTY:
        return ""
    locks = sum(_locks(loader.num_workers) for loader in loaders.values()) * processes
    if free < locks:
        for loader in loaders.values():
            patch(loader, "num_workers", 0)
        _share_nothing(loaders)
        return _line(folder, free, locks, loaders, "no processes are started, as with loader.num_workers 0")
    sharing = {name: loader for name, loader in loaders.items() if loader.use_shared_memory}
    needed = locks + sum(map(_in_flight, sharing.values())) * processes
    if not sharing or free >= needed:
        return ""
    _share_nothing(sharing)
    return _line(folder, free, needed, sharing, "batches go through pipes, as with loader.use_shared_memory false")


def _share_nothing(loaders: Mapping[str, Any]) -> None:
    for loader in loaders.values():
        patch(loader, "use_shared_memory", False)


def _line(folder: Path, free: int, needed: int, loaders: Mapping[str, Any], done: str) -> str:
    return (
        f"{folder} has {free >> 10:,} KB free, and the processes of {', '.join(loaders)} need {-(-needed >> 10):,} KB: "
        f"{done}; docker's --shm-size gives more"
    )


def _free(folder: Path) -> int | None:
    try:
        found = os.statvfs(folder)
    except (OSError, AttributeError):  # no such folder, or no such system
        return None
    return found.f_bavail * found.f_frsize


def _locks(processes: int) -> int:
    """Bytes of the semaphores of a loader, each of which is a page: of a queue for each process and one for all, and an
    event.
    """
    return (3 * (processes + 1) + 5) * mmap.PAGESIZE


def _in_flight(loader: Any) -> int:
    """Bytes of the batches that a loader holds at most: asked for, kept by the process that made it, and in use."""
    states = random.getstate(), np.random.get_state()
    try:
        sample = loader.dataset[0]
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
    images = getattr(loader.batch_sampler, "batch_size", 1)
    size = sum(-(-np.asarray(part).nbytes * images // mmap.PAGESIZE) * mmap.PAGESIZE for part in sample)
    return (loader.prefetch_factor * loader.num_workers + loader.num_workers + 3) * size
