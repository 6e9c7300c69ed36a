"""Finds the library beside Paddle, once, and checks that it computes as Paddle does."""

from __future__ import annotations

import functools
import os
import sys
import threading
import warnings
from pathlib import Path

import paddle

from ppcls_ext.onednn.library import Library, UnsupportedError
from ppcls_ext.onednn.self_check import largest_difference

VARIABLE = "PPCLS_EXT_ONEDNN"
#: How far a result may lie from Paddle's, relative to its largest number.
TOLERANCE = 1e-5
#: By `sys.platform`: the library in Paddle's folder libs, and the OpenMP runtime that it runs on. macOS has none.
#: That of Windows is not verified: its wheel's library exports what is called and imports this runtime of the system's.
_FILES = {"linux": ("libdnnl.so.3", "libiomp5.so"), "win32": ("mkldnn.dll", "VCOMP140.DLL")}
_searching = threading.RLock()


def library() -> Library | None:
    """The library, or None where there is none, it is another version, or `PPCLS_EXT_ONEDNN=0` switches it off.

    Threads that begin together get the same one, whose lock keeps them apart.
    """
    with _searching:
        return _search()


@functools.lru_cache(maxsize=1)
def _search() -> Library | None:
    folder = Path(paddle.__file__).parent / "libs"
    name, openmp = _FILES.get(sys.platform, ("", ""))
    if os.environ.get(VARIABLE) == "0" or not (folder / name).is_file():
        return None
    try:
        found = Library(str(folder / name), str(folder / openmp) if (folder / openmp).is_file() else openmp)
    except (UnsupportedError, OSError, AttributeError):
        return None
    try:
        what, difference = largest_difference(found)
    except (UnsupportedError, RuntimeError) as error:
        what, difference = str(error), float("nan")
    if difference <= TOLERANCE:
        return found
    warnings.warn(
        f"Paddle's oneDNN does not compute as Paddle does here ({what}: difference {difference:.1e}): it is not used, "
        "and training is slower",
        stacklevel=3,
    )
    return None


def loaded() -> Library:
    """The library, where `library` has found it: see `maps.usable`."""
    found = library()
    if found is None:
        raise RuntimeError("oneDNN is not there: ask maps.usable first")
    return found


def _renew_locks() -> None:
    # a thread of the parent may have held them, and is not there to let them go
    global _searching
    _searching = threading.RLock()
    if _search.cache_info().currsize and (found := library()) is not None:
        found.lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_locks)
