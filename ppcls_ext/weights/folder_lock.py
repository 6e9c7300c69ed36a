"""One training at a time in a folder.

The lock is the system's on a file: it ends with the process that holds it, however that ends, so none is ever stale. On
POSIX it is a record lock (`fcntl.lockf`), which forked children do not inherit: a data worker that outlives a killed
training for a while does not keep the folder locked. The package filelock uses `flock`, which children do inherit: its
newest versions close it in them, but 3.19, the last for Python 3.9, does not, and lets every second process clear the
file that names the holder. So filelock serves only where there is no fcntl: on Windows.
"""

from __future__ import annotations

import atexit
import contextlib
import errno
import logging
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from ppcls_ext.errors import PpclsExtError
from ppcls_ext.files import require_plain
from ppcls_ext.packages import import_extra

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

NAME = ".training.lock"
logger = logging.getLogger("ppcls_ext")


class FolderInUseError(PpclsExtError):
    """Another process trains in the folder."""


class _Held(NamedTuple):
    """The lock of a folder.

    Attributes:
        end: ends the lock.
        process: the process that has it; a forked child inherits this table, but not the lock.
        new: the folders that were made for it, innermost first.
    """

    end: Callable[[], None]
    process: int
    new: list[Path]


_held: dict[str, _Held] = {}  # by the folder's real path


def hold(folder: Path) -> None:
    """Makes this process the one that trains in `folder` until `release` or its end; makes the folder; idempotent.

    Raises:
        FolderInUseError: another process trains there; the message says which.
        PpclsExtError: the folder cannot be written.
    """
    key = os.path.realpath(folder)
    if is_held(folder):
        return
    new = [above for above in (folder, *folder.parents) if not above.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        require_plain(folder / NAME)
        end = _lock(folder) if fcntl else _lock_without_fcntl(folder)
    except OSError as error:
        reason = error.strerror or error
        if error.filename and os.path.islink(error.filename) and not os.path.exists(error.filename):
            reason = f"{error.filename} is a symbolic link to {os.readlink(error.filename)}, where there is no folder"
        raise PpclsExtError(f"cannot train in {folder}: {reason}; choose another folder") from error
    _held[key] = _Held(end, os.getpid(), new)


def is_held(folder: Path) -> bool:
    """Whether this process holds `folder`."""
    held = _held.get(os.path.realpath(folder))
    return held is not None and held.process == os.getpid()


def release(folder: Path) -> None:
    """Lets others train in `folder`; removes the folders that `hold` made if nothing was written to them."""
    held = _held.pop(os.path.realpath(folder), None)
    if held is not None and held.process == os.getpid():
        with contextlib.suppress(OSError):
            (folder / NAME).unlink()  # before the lock ends, so that nobody else's is removed
        held.end()
        with contextlib.suppress(OSError):
            for made in held.new:
                made.rmdir()  # only an empty one


def _lock(folder: Path) -> Callable[[], None]:
    """Locks the folder's file and writes this process's name into it; returns the function that ends the lock."""
    path = folder / NAME
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EAGAIN):
                holder = os.read(handle, 200).decode(errors="replace") or "another process"
                os.close(handle)
                raise _in_use(folder, holder) from None
            logger.warning("%s cannot be locked (%s): start no second training there", folder, error.strerror)
            break
        # the holder removes the file when it ends, and a lock on a removed file locks nobody out
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(handle), os.stat(path)):
                break
        os.close(handle)
    os.ftruncate(handle, 0)
    os.write(handle, f"process {os.getpid()} on {socket.gethostname()}, since {time.ctime()}".encode())
    return lambda: os.close(handle)


def _lock_without_fcntl(folder: Path) -> Callable[[], None]:
    """Does the same on Windows, where a locked file cannot be read and so does not name its holder."""
    filelock = import_extra("filelock")
    lock = filelock.FileLock(folder / NAME)
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        raise _in_use(folder, "another process") from None
    return lock.release


def _in_use(folder: Path, holder: str) -> FolderInUseError:
    return FolderInUseError(
        f"{folder} is in use by another training ({holder}): wait for its end, or choose another Global.output_dir"
    )


@atexit.register
def _release_all() -> None:
    for folder in list(_held):
        release(Path(folder))
