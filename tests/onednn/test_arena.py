"""The memory of large maps: blocks that do not overlap, go back when the last tensor does, and merge."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import paddle
import pytest

from ppcls_ext.onednn import arena as module
from ppcls_ext.onednn.arena import INTERVAL, SMALLEST, Arena, Block, arena, empty_map

pytestmark = pytest.mark.skipif(arena() is None, reason="the system has no such memory")
MIB = 1 << 20


def place_of(owner: Arena, block: Block) -> tuple[int, int]:
    """Offset and size of a block that is held."""
    return next((held.offset, held.size) for held in owner._held if held() is block)


def free_of(owner: Arena) -> list[tuple[int, int]]:
    """Size and offset of the free blocks; an impossible request makes it look at what was returned."""
    assert owner.take(1 << 50) is None
    return list(owner._free)


def test_blocks_never_overlap_and_merge_again():
    owner, random, held = Arena(64 * MIB), np.random.RandomState(0), []
    for _ in range(3000):
        if held and random.rand() < 0.5:
            held.pop(random.randint(len(held)))
            continue
        block = owner.take(int(random.randint(1, 6 * MIB)))
        if block is not None:
            held.append(block)
        places = sorted(place_of(owner, block) for block in held)
        assert all(offset + size <= after for (offset, size), (after, _) in zip(places, places[1:]))
        free = sum(size for size, _ in free_of(owner))
        assert free + sum(size for _, size in places) == 64 * MIB
    held.clear()
    del block
    assert free_of(owner) == [(64 * MIB, 0)]


def test_the_smallest_block_that_is_large_enough_is_taken():
    owner = Arena(64 * MIB)
    blocks = [owner.take(size * MIB) for size in (8, 1, 4, 1)]
    large, small = place_of(owner, blocks[0]), place_of(owner, blocks[2])
    del blocks[2], blocks[0]
    again = owner.take(3 * MIB), owner.take(5 * MIB)
    assert [place_of(owner, block)[0] for block in again] == [small[0], large[0]]


def test_a_tensor_keeps_its_memory_as_long_as_a_view_lives():
    shape = [4, 64, 64, 32]
    one = empty_map(shape)
    one[:] = 1.0
    view, address = one.transpose([0, 3, 1, 2]), one.data_ptr()
    del one
    other = empty_map(shape)
    other[:] = 2.0
    assert other.data_ptr() != address
    assert float(view.min()) == float(view.max()) == 1.0
    del view
    assert empty_map(shape).data_ptr() == address


def test_what_is_small_or_finds_no_block_is_paddles(monkeypatch):
    taken = []
    monkeypatch.setattr(Arena, "take", lambda self, size: taken.append(size))
    assert empty_map([1, 8, 8, 8]).shape == [1, 8, 8, 8]
    assert taken == []
    assert empty_map([4, 64, 64, 32]).shape == [4, 64, 64, 32]
    assert taken == [4 * 64 * 64 * 32 * 4]
    assert taken[0] >= SMALLEST


def test_without_a_region_maps_are_paddles(monkeypatch):
    monkeypatch.setattr(module, "Arena", lambda size: (_ for _ in ()).throw(OSError("no memory")))
    arena.cache_clear()
    try:
        assert arena() is None
        assert empty_map([4, 64, 64, 32]).shape == [4, 64, 64, 32]
    finally:
        arena.cache_clear()


def test_tensors_end_in_any_thread():
    owner = arena()
    before = sum(size for size, _ in free_of(owner))

    def work() -> None:
        for number in range(50):
            map_ = empty_map([4, 64, 64, 32])
            map_[:] = number
            assert float(map_.max()) == number

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(size for size, _ in free_of(owner)) == before


def resident() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_memory_that_was_not_reached_for_long_goes_back():
    owner = Arena(512 * MIB)
    block = owner.take(256 * MIB)
    array = np.frombuffer((np.ctypeslib.ctypes.c_char * (256 * MIB)).from_address(block.address), np.uint8)
    array[:] = 1
    held = resident()
    del array, block
    for _ in range(2 * INTERVAL):
        owner.take(MIB)
    assert resident() < held - 200 * MIB


def in_child(queue: multiprocessing.Queue, address: int) -> None:
    map_ = empty_map([4, 64, 64, 32])
    map_[:] = 3.0
    queue.put((float(map_.max()), map_.data_ptr() != address))


def test_a_forked_process_has_its_own():
    held = empty_map([4, 64, 64, 32])
    held[:] = 1.0
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    with arena()._lock:  # as another thread may hold it
        child = context.Process(target=in_child, args=(queue, held.data_ptr()))
        child.start()
    assert queue.get(timeout=60) == (3.0, True)
    child.join(60)
    assert child.exitcode == 0
    assert float(held.max()) == 1.0


def test_a_process_ends_with_tensors_alive():
    code = (
        "import paddle, ppcls_ext\n"
        "model = ppcls_ext.build('RepVGG_A0', class_num=10)\n"
        "model.train()\n"
        "x = paddle.rand([2, 3, 224, 224])\n"
        "y = model(x)\n"
        "kept = model.forward_features(x)\n"
        "print('end')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("end\n")


def test_results_are_ordinary_tensors():
    map_ = empty_map([4, 64, 64, 32])
    map_[:] = 1.0
    assert map_.dtype == paddle.float32
    assert map_.stop_gradient
    assert map_.place.is_cpu_place()
    assert map_.is_contiguous()
    assert map_.data_ptr() % 64 == 0
    assert float((map_ + map_).sum()) == 2 * map_.size


def interrupted_at(line: int, call) -> bool:
    """Calls, with a KeyboardInterrupt at the line of that number among those that run in the arena's file.

    Not where a lock is taken or let go: Python sees to signals before and after that.
    """
    count, lines = 0, Path(module.__file__).read_text(encoding="utf-8").splitlines()

    def trace(frame, event, _):
        nonlocal count
        if frame.f_code.co_filename != module.__file__:
            return None
        if event == "line" and "with self._lock" not in lines[frame.f_lineno - 1]:
            count += 1
            if count == line:
                raise KeyboardInterrupt
        return trace

    sys.settrace(trace)
    try:
        call()
    except KeyboardInterrupt:
        return True
    finally:
        sys.settrace(None)
    return False


def test_an_interrupt_at_any_place_leaves_it_usable(monkeypatch):
    monkeypatch.setattr(module, "INTERVAL", 3)
    owner, held, line, finished = Arena(64 * MIB), [], 0, 0
    kept = [owner.take(size * MIB) for size in (3, 1, 2)]
    while finished < 3:
        line += 1

        def work() -> None:
            held.append(owner.take(2 * MIB))
            held.append(owner.take(MIB))
            held.clear()
            held.append(owner.take(4 * MIB))

        finished += not interrupted_at(line, work)
        held.clear()
        places = sorted(place_of(owner, block) for block in kept)
        assert owner.take(1 << 50) is None
        free = owner._free
        assert sum(size for size, _ in free) + sum(size for _, size in places) == 64 * MIB, line
        taken = sorted([*places, *((offset, size) for size, offset in free)])
        assert all(offset + size == after for (offset, size), (after, _) in zip(taken, taken[1:])), line
    assert line > 50
    kept.clear()
    assert free_of(owner) == [(64 * MIB, 0)]


def test_a_signal_handler_in_the_middle_gets_paddles_memory():
    owner = arena()
    with owner._lock:
        assert owner.take(MIB) is None
        assert empty_map([4, 64, 64, 32]).shape == [4, 64, 64, 32]
    assert owner.take(MIB) is not None
