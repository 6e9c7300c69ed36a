"""Signals wait while oneDNN multiplies matrices.

In oneDNN before 3.11.2 the products of matrices, also those within a convolution, let the stack pointer point into the
heap (cpu/x64/gemm/f32/jit_avx_gemm_f32.cpp and jit_avx512_common_gemm_f32.cpp; uxlfoundation/oneDNN, issue 4845). A
signal that is handled meanwhile (Ctrl-C, the end of a process that loads images, a profiler's timer) is written over
what lies there, and the process dies, or computes something else, later.
"""

from __future__ import annotations

import ctypes
import signal
from collections.abc import Callable
from typing import Any

#: The first version that keeps the stack pointer.
_MENDED = (3, 11, 2)
#: What a fault of the thread itself raises: it cannot wait.
_FAULTS = ("SIGSEGV", "SIGBUS", "SIGFPE", "SIGILL", "SIGTRAP", "SIGABRT", "SIGSYS")
_SIZE = 128  # bytes of a sigset_t, more than any system's
_UNKNOWN = b"\xff" * _SIZE  # no thread blocks all: the C library keeps two for itself


class Undisturbed:
    """Calls functions of oneDNN with all signals blocked, in the calling thread and in OpenMP's others.

    These stay blocked in OpenMP's threads, which handle none otherwise either: one of the process that the calling
    thread blocks would go to them. Real-time signals (from 34 on) are blocked in the calling thread alone.

    Args:
        runtime: the OpenMP runtime.
        threads: how many threads it uses.
    """

    def __init__(self, runtime: ctypes.CDLL, threads: Callable[[], int]) -> None:
        system, pointer, unsigned = ctypes.CDLL(None), ctypes.c_void_p, ctypes.c_uint
        self._threads = threads
        self._change = ctypes.CFUNCTYPE(ctypes.c_int, unsigned, pointer, pointer)(("pthread_sigmask", system))
        self._in_parallel = ctypes.CFUNCTYPE(None, pointer, pointer, unsigned, unsigned)(("GOMP_parallel", runtime))
        self._all = ctypes.create_string_buffer(_SIZE)
        system.sigfillset(self._all)
        faults = [getattr(signal, name) for name in _FAULTS]
        for number in faults:
            system.sigdelset(self._all, number)
        # blocks signals, up to 32, by the bits of its only argument: what each thread of a parallel region can call
        self._block = ctypes.cast(system.sigblock, pointer)
        self._bits = 0xFFFFFFFF & ~sum(1 << (number - 1) for number in faults)

    def __call__(self, function: Callable[..., int], *arguments: Any) -> int:
        """`function(*arguments)`."""
        before = ctypes.create_string_buffer(_UNKNOWN, _SIZE)
        try:
            self._change(signal.SIG_BLOCK, self._all, before)
            if (threads := self._threads()) > 1:
                self._in_parallel(self._block, self._bits, threads, 0)
            return function(*arguments)
        finally:
            if before.raw != _UNKNOWN:  # otherwise an interrupt came before the first call
                self._change(signal.SIG_SETMASK, before, None)


def undisturbed(
    version: tuple[int, int, int], runtime: ctypes.CDLL, threads: Callable[[], int]
) -> Callable[..., int] | None:
    """What calls the products of this oneDNN, see `Undisturbed`; None where they can be called as they are."""
    if version >= _MENDED or not hasattr(signal, "pthread_sigmask"):
        return None
    return Undisturbed(runtime, threads)
