"""Scratch memory between walls: what oneDNN writes beyond it fails the test instead of damaging the heap."""

from __future__ import annotations

import numpy as np
import pytest

from ppcls_ext.onednn.library import _ALIGNMENT, Library

WALL, FILL = 1 << 20, 0x5A


class Walls:
    """Takes the place of `Library.scratch`."""

    def __init__(self) -> None:
        self.memory, self.start, self.size = np.empty(0, np.uint8), 0, 0

    def scratch(self, size: int) -> int:
        self.check()
        self.memory = np.full(size + 2 * WALL + _ALIGNMENT, FILL, np.uint8)
        self.start = WALL + -(self.memory.ctypes.data + WALL) % _ALIGNMENT
        self.size = size
        return self.memory.ctypes.data + self.start

    def check(self) -> None:
        before, after = self.memory[: self.start], self.memory[self.start + self.size :]
        written = np.count_nonzero(before != FILL) + np.count_nonzero(after != FILL)
        self.memory = self.memory[:0]
        assert not written, f"{written} bytes beyond the {self.size} of its scratch memory were written by oneDNN"


@pytest.fixture(autouse=True)
def walls(monkeypatch):
    found = Walls()
    with monkeypatch.context() as patch:
        patch.setattr(Library, "scratch", lambda _, size: found.scratch(size))
        yield found
    found.check()
