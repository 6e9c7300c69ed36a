"""A weight file under suspicion: nothing that it declares is believed beyond what its own size allows."""

from __future__ import annotations

import io
import os

from ppcls_ext.errors import PpclsExtError
from ppcls_ext.files import open_regular

MIB = 1 << 20
ALLOWED_GROWTH = 16
"""How many times its own size a file may take in memory. Trained weights compress to 0.9 of their size; a net that
is mostly zeros compresses further."""


class BoundedFile(io.BufferedReader):
    """A file open for reading, with an allowance of memory for what is made of its content.

    The allowance is `ALLOWED_GROWTH` times the file's size, and 64 MiB for small files.

    Args:
        source: a path, or bytes in memory.

    Raises:
        OSError: the file cannot be opened.
        PpclsExtError: it is a pipe or device.
    """

    def __init__(self, source: str | os.PathLike | io.BytesIO) -> None:
        in_memory = isinstance(source, io.BytesIO)
        super().__init__(source if in_memory else io.FileIO(open_regular(source)))
        self.size = source.getbuffer().nbytes if in_memory else os.fstat(self.fileno()).st_size
        self.allowance = max(64 * MIB, ALLOWED_GROWTH * self.size)

    def read(self, count: int | None = -1) -> bytes:
        """Reads as `open(...).read` does, but never reserves room for more bytes than the file still holds."""
        if count is None or not 0 <= count <= MIB:
            left = max(0, self.size - self.tell())
            count = left if count is None or count < 0 else min(count, left)
        return super().read(count)

    def seek(self, position: int, whence: int = io.SEEK_SET) -> int:
        """Seeks as `open(...).seek` does, but never to before the beginning or beyond the end.

        Raises:
            ValueError: `position` is there.
        """
        if whence == io.SEEK_SET and not 0 <= position <= self.size:
            raise ValueError("it refers to a place outside of the file")
        return super().seek(position, whence)

    def spend(self, amount: int) -> None:
        """Takes `amount` bytes off the allowance; call it before the memory is reserved.

        Raises:
            PpclsExtError: the allowance is used up.
        """
        self.allowance -= amount
        if self.allowance < 0:
            raise PpclsExtError(
                f"refused: it unfolds to more than {ALLOWED_GROWTH} times its own size ({self.size:,} bytes), as no "
                "real weights do; get it again from its source"
            )
