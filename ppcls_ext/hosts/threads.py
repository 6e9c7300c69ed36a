"""Paddle's settings on the CPU: the number of threads, the instruction set of its MKL, and the memory allocator.

OpenMP reads OMP_NUM_THREADS when Paddle is loaded, and Paddle sets it to 1 where it is unset: so it has to be set
before the first `import paddle`. So has MKL_DEBUG_CPU_TYPE: the MKL inside Paddle takes its slowest code on processors
that are not Intel's, unless the variable names an instruction set (5 is AVX2; newer MKLs ignore the variable).

Paddle frees and allocates every map in every step. glibc gives large blocks back to the system each time, which then
has to clear and map them again: keeping them makes a step of MobileOne_S0 about a tenth faster.
"""

from __future__ import annotations

import contextlib
import ctypes
import io
import os
import sys
from pathlib import Path

from ppcls_ext import cpu

VARIABLE = "OMP_NUM_THREADS"
MKL_VARIABLE = "MKL_DEBUG_CPU_TYPE"

# glibc's <malloc.h>
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_LARGEST_HEAP_BLOCK = 32 << 20  # bytes; glibc takes no more
_LARGEST_REST = 1 << 30  # bytes that may stay free at the heap's end


def use_all_cores() -> None:
    """Lets Paddle use the cores that this process may use, shared fairly among the processes of a launch.

    Does nothing where Paddle is loaded already, and keeps a number of threads that the user has set. Imports Paddle,
    without its advice on stderr against more than one thread. On AMD processors it selects MKL's fast code; it also
    makes glibc keep freed memory.
    """
    if "paddle" in sys.modules:
        return
    _keep_freed_memory()
    if MKL_VARIABLE not in os.environ and cpu.is_amd_with_avx2():
        os.environ[MKL_VARIABLE] = "5"
    threads = threads_to_use()
    if threads is not None:
        os.environ[VARIABLE] = str(threads)
    advice = io.StringIO()
    with contextlib.redirect_stderr(advice):
        import paddle  # noqa: F401
    for line in advice.getvalue().splitlines():
        if VARIABLE not in line:
            print(line, file=sys.stderr)


def threads_to_use() -> int | None:
    """Returns the fair share of the usable cores, or None where the user has set OMP_NUM_THREADS."""
    if _set_by_user():
        return None
    processes = int(os.environ.get("PADDLE_LOCAL_SIZE", "1"))
    return max(1, cpu.usable_cores() // max(1, processes))


def _keep_freed_memory() -> None:
    """Makes glibc reuse freed memory for large blocks; does nothing elsewhere, or where the user has tuned it."""
    if sys.platform != "linux" or any(name.startswith("MALLOC_") for name in os.environ):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _LARGEST_HEAP_BLOCK)
        mallopt(_M_TRIM_THRESHOLD, _LARGEST_REST)


def _set_by_user() -> bool:
    if VARIABLE not in os.environ:
        return False
    if "PADDLE_LOCAL_SIZE" not in os.environ:
        return True
    # paddle.distributed.launch has loaded Paddle, which sets the variable: read the launcher's own environment
    try:
        started_with = Path(f"/proc/{os.getppid()}/environ").read_bytes()
    except OSError:
        return True
    return any(entry.startswith(f"{VARIABLE}=".encode()) for entry in started_with.split(b"\0"))
