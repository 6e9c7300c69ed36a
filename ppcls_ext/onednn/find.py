"""Finds the library beside Paddle, once, and checks that it computes what Paddle does."""

from __future__ import annotations

import functools
import os
import sys
import threading
import warnings
from pathlib import Path

import numpy as np
import paddle

from ppcls_ext.onednn import builders
from ppcls_ext.onednn.library import Library, UnsupportedError

VARIABLE = "PPCLS_EXT_ONEDNN"
#: How far the two convolutions may lie apart, relative to the largest number.
TOLERANCE = 1e-5
_NAME, _OPENMP = "libdnnl.so.3", "libiomp5.so"


@functools.lru_cache(maxsize=1)
def library() -> Library | None:
    """The library, or None where there is none, it is another version, or `PPCLS_EXT_ONEDNN=0` switches it off."""
    folder = Path(paddle.__file__).parent / "libs"
    if os.environ.get(VARIABLE) == "0" or sys.platform != "linux" or not (folder / _NAME).is_file():
        return None
    try:
        found = Library(folder / _NAME, folder / _OPENMP)
        difference = _difference(found)
    except (UnsupportedError, OSError, AttributeError):
        return None
    if difference <= TOLERANCE:
        return found
    warnings.warn(
        f"the convolution of Paddle's oneDNN differs from Paddle's own by {difference:.1e} here: it is not used",
        stacklevel=2,
    )
    return None


def _renew_lock() -> None:
    # a thread of the parent may have held it, and is not there to let it go
    if library.cache_info().currsize and (found := library()) is not None:
        found.lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_lock)


def _difference(found: Library) -> float:
    """Largest difference between oneDNN's and Paddle's convolution, relative to the largest number."""
    generator = np.random.RandomState(0)
    x, kernel = (paddle.to_tensor(generator.randn(*shape).astype("float32")) for shape in ((2, 4, 7, 5), (6, 4, 3, 3)))
    expected = paddle.nn.functional.conv2d(x, kernel, None, 2, 1).transpose([0, 2, 3, 1])
    rows, got = x.transpose([0, 2, 3, 1]).contiguous(), paddle.empty(expected.shape, "float32")
    convolution = builders.convolution(found, rows.shape, kernel.shape, builders.Geometry(2, 1, 1), 0, False)
    convolution(rows.data_ptr(), kernel.data_ptr(), got.data_ptr())
    return float((got - expected).abs().max() / expected.abs().max())
