"""One training at a time in a folder.

The system's lock on a file: it ends with the process that holds it, however that ends, so none is ever stale.
"""

from __future__ import annotations

import atexit
import contextlib
import errno
import logging
import os
import socket
import time
from pathlib import Path

from ppcls_ext.errors import PpclsExtError
from ppcls_ext.files import require_plain

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

NAME = ".training.lock"
logger = logging.getLogger("ppcls_ext")
# by real path: the file's handle, the process that opened it (a fork inherits this table, not the locks), new folders
_held: dict[str, tuple[int, int, list[Path]]] = {}


def hold(folder: Path) -> None:
    """Makes this process the one that trains in `folder`, which is made, until `release` or its end; idempotent.

    Raises:
        PpclsExtError: another process trains there; says which. Or the folder cannot be written.
    """
    key = os.path.realpath(folder)
    if _held.get(key, (0, 0))[1] == os.getpid():
        return
    new = [above for above in (folder, *folder.parents) if not above.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = _lock(folder)
        os.ftruncate(handle, 0)
        os.write(handle, f"process {os.getpid()} on {socket.gethostname()}, since {time.ctime()}".encode())
    except OSError as error:
        raise PpclsExtError(f"cannot train in {folder}: {error.strerror or error}; choose another folder") from error
    _held[key] = handle, os.getpid(), new


def release(folder: Path) -> None:
    """Lets others train in `folder`; what `hold` made and nobody used is removed."""
    handle, process, new = _held.pop(os.path.realpath(folder), (0, 0, []))
    if process == os.getpid():
        with contextlib.suppress(OSError):
            (folder / NAME).unlink()  # before the lock ends, so that nobody else's is removed
        os.close(handle)
        with contextlib.suppress(OSError):
            for made in new:
                made.rmdir()  # only an empty one


def _lock(folder: Path) -> int:
    path = folder / NAME
    require_plain(path)
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            if fcntl is None:
                raise OSError(errno.ENOSYS, "this system has no file locks")
            fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EAGAIN):
                holder = os.read(handle, 200).decode(errors="replace") or "another process"
                os.close(handle)
                raise PpclsExtError(
                    f"{folder} is in use by another training ({holder}): wait for its end, or choose another "
                    "Global.output_dir"
                ) from None
            logger.warning("%s cannot be locked (%s): start no second training there", folder, error.strerror)
            return handle
        # the one who held it removes the file; a lock on a removed file says nothing
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(handle), os.stat(path)):
                return handle
        os.close(handle)


@atexit.register
def _release_all() -> None:
    for folder in list(_held):
        release(Path(folder))
