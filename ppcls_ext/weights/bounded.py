"""Reading an untrusted weight file within limits: no declared size is believed beyond what the file's own size allows.

`BoundedFile` holds the memory allowance that every reader spends from; `Tensor` and the functions below it turn file
content into plain NumPy arrays.
"""

from __future__ import annotations

import contextlib
import io
import math
import os
import zipfile
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from ppcls_ext.errors import NotRegularFileError, PpclsExtError, shown
from ppcls_ext.files import open_regular

MIB = 1 << 20
ALLOWED_GROWTH = 16
"""The factor by which a file may grow in memory. Trained weights compress to 0.9 of their size; a net that is mostly
zeros compresses further."""
MAX_DIMENSIONS = 32
"""Axes of an array; NumPy 1 has no more."""


class BoundedFile(io.BufferedReader):
    """A file open for reading, with an allowance of memory for everything that is made from its content.

    The allowance is `ALLOWED_GROWTH` times the file's size, and 64 MiB for small files.

    Args:
        source: a path, or bytes in memory.

    Raises:
        OSError: the file cannot be opened.
        NotRegularFileError: it is a pipe, device or folder.
    """

    def __init__(self, source: str | os.PathLike | io.BytesIO) -> None:
        if isinstance(source, io.BytesIO):
            super().__init__(source)
            self.size = source.getbuffer().nbytes
        else:
            super().__init__(io.FileIO(open_regular(source)))
            self.size = os.fstat(self.fileno()).st_size
        self.allowance = max(64 * MIB, ALLOWED_GROWTH * self.size)

    def read(self, count: int | None = -1) -> bytes:
        """Reads as `open(...).read` does, but never reserves memory for more bytes than the file has left."""
        if count is None or not 0 <= count <= MIB:
            left = max(0, self.size - self.tell())
            count = left if count is None or count < 0 else min(count, left)
        return super().read(count)

    def seek(self, position: int, whence: int = io.SEEK_SET) -> int:
        """Seeks as `open(...).seek` does, but never to before the beginning or beyond the end.

        Raises:
            ValueError: `position` is outside of the file.
        """
        if whence == io.SEEK_SET and not 0 <= position <= self.size:
            raise ValueError("it refers to a place outside of the file")
        return super().seek(position, whence)

    def spend(self, amount: int) -> None:
        """Takes `amount` bytes off the allowance; to be called before the memory is reserved.

        Raises:
            PpclsExtError: the allowance is used up.
        """
        self.allowance -= amount
        if self.allowance < 0:
            raise PpclsExtError(
                f"refused: it unfolds to more than {ALLOWED_GROWTH} times its own size ({self.size:,} bytes), as no "
                "real weights do; get it again from its source"
            )


@contextlib.contextmanager
def opened(path: str | os.PathLike) -> Iterator[BoundedFile]:
    """Opens the file `path`; turns every exception in the body into a PpclsExtError that names it."""
    with explained(path), BoundedFile(path) as file:
        yield file


@contextlib.contextmanager
def explained(path: str | os.PathLike) -> Iterator[None]:
    """Turns every exception in the body into a PpclsExtError that names the file `path`."""
    try:
        yield
    except NotRegularFileError:
        raise
    except PpclsExtError as error:
        raise PpclsExtError(f"{path}: {error}") from error
    except OSError as error:
        raise PpclsExtError(f"cannot read {path}: {error.strerror or error}") from error
    except MemoryError as error:
        raise PpclsExtError(f"{path}: needs more memory than there is") from error
    except Exception as error:  # whatever malformed content provokes here or in the libraries that parse it
        reason = f"{type(error).__name__}: {error}"
        raise PpclsExtError(f"{path}: damaged or incomplete ({shown(reason)}); get it again from its source") from error


class Tensor:
    """A tensor of a checkpoint, described but not read yet: most tensors of a training checkpoint are never needed."""

    def read(self, file: BoundedFile) -> np.ndarray:
        """Returns the tensor's values.

        Raises:
            ValueError: the description contradicts the file.
        """
        raise NotImplementedError


def size(value: Any) -> int:
    """Returns `value`, checked to be a length, an offset or a stride.

    Raises:
        ValueError: it is anything else.
    """
    if type(value) is not int or not 0 <= value < 1 << 63:
        raise ValueError("a length, offset or stride is not a number in range")
    return value


def sizes(values: Any) -> tuple[int, ...]:
    """Returns `values`, checked to be a shape or strides.

    Raises:
        ValueError: they are anything else.
    """
    if not isinstance(values, (tuple, list)) or len(values) > MAX_DIMENSIONS:
        raise ValueError("a shape is not a short tuple of numbers")
    return tuple(size(value) for value in values)


def check_plain(dtype: np.dtype) -> np.dtype:
    """Returns `dtype`, checked to be a type of real numbers or booleans of at most 64 bits.

    Raises:
        PpclsExtError: it is anything else, such as Python objects.
    """
    if dtype.kind not in "fiub" or dtype.itemsize > 8:
        raise PpclsExtError(f"holds an array of type {dtype}; expected plain real numbers or booleans")
    return dtype


def from_bytes(
    content: bytes | bytearray | memoryview,
    dtype: np.dtype,
    shape: Sequence[int],
    file: BoundedFile,
    *,
    fortran: bool = False,
) -> np.ndarray:
    """Returns the array whose values are exactly `content`, in plain form (`plain`).

    Raises:
        ValueError: `content` has another length than `shape` and `dtype` require.
        PpclsExtError: `dtype` is not plain, or the allowance is used up.
    """
    check_plain(dtype)
    if len(content) != math.prod(shape) * dtype.itemsize:
        raise ValueError(f"{len(content):,} bytes do not fill an array of {dtype} of the shape declared")
    flat = np.frombuffer(content, dtype)
    return plain(flat.reshape(shape, order="F" if fortran else "C"), file)


def plain(array: np.ndarray, file: BoundedFile) -> np.ndarray:
    """Returns the values of `array`, contiguous in C order, in this machine's byte order, read-only."""
    native = array.dtype.newbyteorder("=")
    if array.dtype != native or not array.flags.c_contiguous:
        file.spend(array.nbytes)
        array = array.astype(native, order="C")
    array.flags.writeable = False
    return array


def widen_bfloat16(bits: np.ndarray, file: BoundedFile) -> np.ndarray:
    """Converts bfloat16 numbers, given as the uint16 of their bits, to float32; the conversion is exact."""
    file.spend(4 * bits.size)
    wide = bits.astype(np.uint32).reshape(-1)  # NumPy 1 shifts a 0-D array in int64 and cannot put that back
    wide <<= 16
    return plain(wide.view(np.float32).reshape(bits.shape), file)


def read_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo, file: BoundedFile) -> bytes:
    """Returns the content of an archive's member, checked against its checksum.

    Args:
        archive: the ZIP archive, opened on `file`.
        member: one of its members.
        file: the file whose allowance pays for the content.

    Raises:
        PpclsExtError: the member is encrypted or compressed by an unusual method, or the allowance is used up.
    """
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) or member.flag_bits & 1:
        raise PpclsExtError("refused: it is packed or encrypted in a way that no program for weights uses; unpack it")
    file.spend(member.file_size)
    with archive.open(member) as stream:
        # The count matters: without one, everything is unpacked, whatever size the directory declares
        content = stream.read(member.file_size)
    if len(content) != member.file_size:
        raise ValueError(f"member {member.filename!a} ends early")
    return content
