"""Where large maps live: one region of memory, in which freed neighbours become one block again.

Paddle asks glibc for blocks that start at a page, which glibc cannot cut from a free block of just that size: where
freed memory is kept (training/threads.py), a third of the heap ends up as holes between the maps of a step; where it is
not, the system clears every map anew. The region is virtual: only what was written to takes memory.

The measured reason for these lines: the peak of a process that takes steps at 8 × 224 px falls by a fifth (RepVGG_A0
827 to 665 MiB, MobileOne_S4 1830 to 1455 MiB) at the same speed; exact blocks from the system save as much and make a
step take 0.76 s instead of 0.45.
"""

from __future__ import annotations

import bisect
import collections
import ctypes
import functools
import math
import mmap
import os
import sys
import threading
import weakref
from collections.abc import Sequence
from typing import Any

import numpy as np
import paddle
from paddle import Tensor, _C_ops
from paddle.utils.dlpack import from_dlpack

from ppcls_ext.onednn.memory import BFLOAT16, FLOAT32

#: Smaller ones are left to Paddle, which is quicker with them; bytes.
SMALLEST = 1 << 20
#: Blocks that are taken before memory that none of them reached goes back to the system.
INTERVAL = 4096
_PAGE = 4096  # bytes
_CPU = paddle.CPUPlace()
_TYPES = {FLOAT32: paddle.float32, BFLOAT16: paddle.bfloat16}
_MAP_NORESERVE = 0x4000  # <sys/mman.h>; Python has it from 3.13 on


def empty_map(shape: Sequence[int], numbers: int = FLOAT32) -> Tensor:
    """A tensor of that shape, of any content; its memory is free again when the last one lets go of it.

    `numbers`: their kind, `FLOAT32` or `BFLOAT16`.
    """
    size = numbers * math.prod(shape)
    if size >= SMALLEST and (found := arena()) is not None and (block := found.take(size)) is not None:
        block.__array_interface__ = {
            "shape": tuple(shape),
            "typestr": "<f4" if numbers == FLOAT32 else "<i2",  # NumPy has no bfloat16
            "data": (block.address, False),
            "version": 3,
        }
        found = from_dlpack(np.asarray(block).__dlpack__())
        return found if numbers == FLOAT32 else found.view(paddle.bfloat16)
    return empty(shape, numbers)


def empty(shape: Sequence[int], numbers: int = FLOAT32) -> Tensor:
    """As `paddle.empty` on the CPU, in a fifth of its time, which small maps feel; `numbers`: see `empty_map`."""
    return _C_ops.empty(list(shape), _TYPES[numbers], _CPU)


@functools.lru_cache(maxsize=1)
def arena() -> Arena | None:
    """The process's own, or None where the system has no such memory to give."""
    if sys.platform != "linux":
        return None
    try:
        return Arena(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    except (OSError, ValueError):
        return None


if hasattr(os, "register_at_fork"):
    # a thread of the parent may hold the lock, and is not there to let it go
    os.register_at_fork(after_in_child=arena.cache_clear)


class Arena:
    """Blocks of a region, each cut from the smallest free one that is large enough; thread-safe.

    An interrupt (Ctrl-C) may come at any place of it: the list of blocks that are held is always true, and what is free
    is worked out anew from it after an interrupt.

    Args:
        size: of the region, bytes.

    Raises:
        OSError: the system refuses such a region.
    """

    def __init__(self, size: int) -> None:
        self._region = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_NORESERVE)
        if hasattr(mmap, "MADV_HUGEPAGE"):
            self._region.madvise(mmap.MADV_HUGEPAGE)
        self._start, self._size = ctypes.addressof(ctypes.c_char.from_buffer(self._region)), size
        self._lock: Any = threading.RLock()  # Any: typeshed knows no _is_owned
        self._held: set[_Held] = set()
        #: Blocks that nobody holds any more: they end in any thread, also while the lock is held.
        self.returned: collections.deque[_Held] = collections.deque()
        self._taken = self._top = self._written = 0
        self._in_order = False
        self._work_out_what_is_free()

    def take(self, size: int) -> Block | None:
        """A block of that many bytes, or None where none is left, or a signal handler asks in the middle of this."""
        if self._lock._is_owned():
            return None
        size = -(-size // _PAGE) * _PAGE
        with self._lock:
            if not self._in_order:
                self._work_out_what_is_free()
            self._in_order = False
            while self.returned:
                self._merge(self.returned[0])
                self.returned.popleft()
            place = bisect.bisect_left(self._free, (size, 0))
            if place == len(self._free):
                self._in_order = True
                return None
            offset = self._free[place][1]
            block = Block(self._region, self._start + offset)
            held = _Held(block, self.returned.append)
            held.offset, held.size = offset, size
            self._held.add(held)
            rest = self._remove(offset) - size
            if rest:
                self._add(offset + size, rest)
            self._trim()
            self._in_order = True
        return block

    def _work_out_what_is_free(self) -> None:
        """Of the region, all that no block holds."""
        while self.returned:
            self._held.discard(self.returned[0])
            self.returned.popleft()
        self._free: list[tuple[int, int]] = []  # size and offset of each, sorted
        self._size_at: dict[int, int] = {}  # of the free ones, by offset
        self._offset_before: dict[int, int] = {}  # by the offset where they end
        end = 0
        for held in sorted(self._held, key=lambda held: held.offset):
            if held.offset > end:
                self._add(end, held.offset - end)
            end = held.offset + held.size
        if end < self._size:
            self._add(end, self._size - end)
        self._in_order = True

    def _merge(self, held: _Held) -> None:
        """Frees a block, together with its free neighbours."""
        if held not in self._held:
            return  # an interrupt ended it before it was handed out
        self._held.discard(held)
        offset, size = held.offset, held.size
        if offset + size in self._size_at:
            size += self._remove(offset + size)
        if offset in self._offset_before:
            offset = self._offset_before[offset]
            size += self._remove(offset)
        self._add(offset, size)

    def _add(self, offset: int, size: int) -> None:
        bisect.insort(self._free, (size, offset))
        self._size_at[offset], self._offset_before[offset + size] = size, offset

    def _remove(self, offset: int) -> int:
        size = self._size_at.pop(offset)
        del self._offset_before[offset + size], self._free[bisect.bisect_left(self._free, (size, offset))]
        return size

    def _trim(self) -> None:
        """From time to time, gives back what lies behind all that was held since the last time."""
        self._taken += 1
        self._top = max(self._top, self._offset_before.get(self._size, self._size))
        self._written = max(self._written, self._top)
        if self._taken == INTERVAL:
            if self._written > self._top:
                self._region.madvise(mmap.MADV_DONTNEED, self._top, self._written - self._top)
            self._written, self._taken, self._top = self._top, 0, 0


class Block:
    """Memory that NumPy's array holds, and that through it Paddle's tensor holds; it keeps the region alive."""

    __slots__ = ("__array_interface__", "__weakref__", "_region", "address")
    __array_interface__: dict[str, Any]

    def __init__(self, region: mmap.mmap, address: int) -> None:
        self._region, self.address = region, address


class _Held(weakref.ref):
    """Reference to a block that is held, with its place in the region, bytes.

    Its callback tells the block's end and is not a Python function: in one (a `__del__`), an interrupt would be lost.
    """

    __slots__ = ("offset", "size")
    offset: int
    size: int
    __hash__, __eq__ = object.__hash__, object.__eq__  # of the reference itself, which outlives the block
