"""What the readers turn file content into: tensors that are read when asked for, and arrays in one plain form."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from ppcls_ext.errors import PpclsExtError
from ppcls_ext.weights.bounded import BoundedFile

MAX_DIMENSIONS = 32


class Tensor:
    """A tensor of a checkpoint, described but not read: most of a training checkpoint is never looked at."""

    def read(self, file: BoundedFile) -> np.ndarray:
        """Returns the tensor's values.

        Raises:
            ValueError: the description contradicts the file.
        """
        raise NotImplementedError


def size(value: object) -> int:
    """Returns a length, an offset or a stride that a file declares, checked to be one."""
    if type(value) is not int or not 0 <= value < 1 << 63:
        raise ValueError("a length, offset or stride is not a number in range")
    return value


def sizes(values: object) -> tuple[int, ...]:
    """Returns a shape or strides that a file declares, checked to be such."""
    if not isinstance(values, (tuple, list)) or len(values) > MAX_DIMENSIONS:
        raise ValueError("a shape is not a short tuple of numbers")
    return tuple(size(value) for value in values)


def check_plain(dtype: np.dtype) -> np.dtype:
    """Returns `dtype` if it is one of real numbers or booleans of at most 64 bits.

    Raises:
        PpclsExtError: it is anything else, such as Python objects.
    """
    if dtype.kind not in "fiub" or dtype.itemsize > 8:
        raise PpclsExtError(f"holds an array of type {dtype}; expected plain real numbers or booleans")
    return dtype


def from_bytes(
    content: bytes | memoryview, dtype: np.dtype, shape: Sequence[int], file: BoundedFile, *, fortran: bool = False
) -> np.ndarray:
    """Returns the array whose values are exactly `content`, in plain form (`plain`)."""
    check_plain(dtype)
    if len(content) != math.prod(shape) * dtype.itemsize:
        raise ValueError(f"{len(content):,} bytes do not fill an array of {dtype} of the shape declared")
    flat = np.frombuffer(content, dtype)
    return plain(flat.reshape(shape, order="F" if fortran else "C"), file)


def plain(array: np.ndarray, file: BoundedFile) -> np.ndarray:
    """Returns the values of `array` contiguous in C order, in this machine's byte order, read-only."""
    native = array.dtype.newbyteorder("=")
    if array.dtype != native or not array.flags.c_contiguous:
        file.spend(array.nbytes)
        array = array.astype(native, order="C")
    array.flags.writeable = False
    return array


def widen_bfloat16(bits: np.ndarray, file: BoundedFile) -> np.ndarray:
    """Returns as float32 the bfloat16 numbers whose 16 bits are given as uint16; exact."""
    file.spend(4 * bits.size)
    wide = bits.astype(np.uint32).reshape(-1)  # NumPy 1 shifts a 0-D array in int64 and cannot put that back
    wide <<= 16
    return plain(wide.view(np.float32).reshape(bits.shape), file)
