"""No signal is handled in a thread that multiplies matrices, and none is lost."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading

import pytest

from ppcls_ext.onednn import signals
from ppcls_ext.onednn.find import library
from tests.helpers import ROOT

pytestmark = pytest.mark.skipif(
    library() is None or library().undisturbed is None, reason="this oneDNN needs no protection, or there is none"
)

#: Computes for a second or two, and prints of each thread that is busy meanwhile the signals that it blocks.
PROGRAM = """
import os, sys, threading, time, paddle
from pathlib import Path
from ppcls_ext.onednn import builders, products
from ppcls_ext.onednn.builders import Geometry
from ppcls_ext.onednn.find import library

def state(thread):
    blocked = Path(f"/proc/self/task/{thread}/status").read_text().split("SigBlk:")[1].split()[0]
    ticks = Path(f"/proc/self/task/{thread}/stat").read_text().rsplit(")", 1)[1].split()[11]
    return int(blocked, 16), int(ticks)

def watch():
    time.sleep(0.2)
    before = {thread: state(thread) for thread in os.listdir("/proc/self/task")}
    time.sleep(0.5)
    busy = [state(thread)[0] for thread, (_, ticks) in before.items() if state(thread)[1] - ticks > 3]
    print(*busy)

found = library()
if sys.argv[1] == "product":
    x, kernel, y = paddle.ones([64, 10, 10, 2048]), paddle.ones([8192, 2048, 1, 1]), paddle.empty([64, 10, 10, 8192])
    call = lambda: products.pointwise(x, kernel, None, y)
else:
    shape, kernel = (512, 2, 2, 512), (2048, 512, 3, 3)
    primitive = found.primitive(("test",), builders.convolution_kernel_gradient, shape, kernel, Geometry(2, 1), 0)
    assert "gemm" in found.implementation(primitive._descriptor), "another implementation: choose another convolution"
    maps = paddle.ones(shape), paddle.ones([512, 1, 1, 2048]), paddle.ones(kernel)
    call = lambda: primitive(*[value.data_ptr() for value in maps])
thread = threading.Thread(target=watch)
thread.start()
start = time.monotonic()
call()
assert time.monotonic() - start > 0.7, "too short to be watched"
thread.join()
"""


def numbers(bits: int) -> set[int]:
    return {number for number in range(1, 65) if bits >> (number - 1) & 1}


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("kind", ["product", "convolution"])
def test_what_computes_handles_no_signals(kind, threads):
    # with AVX-512 oneDNN has other implementations of these two, which keep the stack pointer
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "ONEDNN_MAX_CPU_ISA": "AVX2"}
    command = [sys.executable, "-c", PROGRAM, kind]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=ROOT, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    busy = [numbers(int(bits)) for bits in done.stdout.split()]
    assert len(busy) == threads
    faults = {getattr(signal, name) for name in signals._FAULTS}
    for blocked in busy:
        assert blocked >= {*range(1, 32)} - faults - {signal.SIGKILL, signal.SIGSTOP}
        assert not blocked & faults


def test_the_thread_blocks_afterwards_what_it_blocked_before():
    call = library().undisturbed
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2})
    try:
        mine = signal.pthread_sigmask(signal.SIG_BLOCK, [])
        inside = []
        assert call(lambda value: inside.extend(signal.pthread_sigmask(signal.SIG_BLOCK, [])) or value, 7) == 7
        assert signal.SIGINT in inside
        assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == mine
        with pytest.raises(ZeroDivisionError):
            call(lambda: 1 // 0)
        assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == mine
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def test_a_signal_is_handled_afterwards():
    handled, during = [], []
    before = signal.signal(signal.SIGUSR1, lambda *_: handled.append(1))

    def function():
        signal.pthread_kill(threading.get_ident(), signal.SIGUSR1)  # to this thread: no other one handles it
        for _ in range(1000):
            during.extend(handled)
        return 0

    try:
        library().undisturbed(function)
        assert handled == [1]
        assert not during
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_an_interrupt_before_the_first_call_leaves_the_mask_alone(monkeypatch):
    call = library().undisturbed
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    changes = []

    def change(*arguments):
        changes.append(arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(call, "_change", change)
    with pytest.raises(KeyboardInterrupt):
        call(lambda: 0)
    assert len(changes) == 1
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == before


def test_versions():
    assert signals.undisturbed((3, 11, 2), None, None) is None
    assert signals.undisturbed((4, 0, 0), None, None) is None
