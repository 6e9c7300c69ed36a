"""OMP_NUM_THREADS, in fresh Pythons: it counts when Paddle is loaded."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

VARIABLES = ("OMP_NUM_THREADS", "PADDLE_LOCAL_SIZE")


def run(code: str, parent: dict[str, str], child: dict[str, str]) -> subprocess.CompletedProcess:
    """Runs `code` with the variables `child`, started by a shell that was started with the variables `parent`."""
    clean = {key: value for key, value in os.environ.items() if key not in VARIABLES}
    assignments = " ".join(f"{key}={value}" for key, value in child.items())
    return subprocess.run(
        ["sh", "-c", f'{assignments} "$0" -c "$1"; exit $?', sys.executable, code],
        env={**clean, **parent},
        capture_output=True,
        text=True,
        check=True,
    )


def test_allusable_cores_without_paddles_advice():
    code = (
        "import os; from ppcls_ext.hosts import threads; threads.use_all_cores(); print(os.environ[threads.VARIABLE])"
    )
    result = run(code, {}, {})
    assert result.stdout.strip() == str(len(os.sched_getaffinity(0)))
    assert "OMP_NUM_THREADS" not in result.stderr


@pytest.mark.parametrize(
    ("parent", "child", "expected"),
    [
        ({}, {"OMP_NUM_THREADS": "3"}, None),  # the user's
        ({}, {}, 8),
        # a launcher sets it to 1 when it loads Paddle; what it was started with tells whose it is
        ({}, {"OMP_NUM_THREADS": "1", "PADDLE_LOCAL_SIZE": "4"}, 2),
        ({}, {"OMP_NUM_THREADS": "1", "PADDLE_LOCAL_SIZE": "16"}, 1),
        ({"OMP_NUM_THREADS": "1"}, {"OMP_NUM_THREADS": "1", "PADDLE_LOCAL_SIZE": "4"}, None),
    ],
)
def test_number_of_threads_on_8_cores(parent, child, expected):
    code = (
        "from ppcls_ext import cpu; from ppcls_ext.hosts import threads; "
        "cpu.usable_cores = lambda: 8; print(threads.threads_to_use())"
    )
    assert run(code, parent, child).stdout.strip() == str(expected)


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's allocator")
def test_freed_memory_is_used_again():
    code = (
        "import resource; from ppcls_ext.hosts import threads; threads.use_all_cores(); import paddle\n"
        "for step in range(21):\n"
        "    if step == 1: before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "    paddle.full([4 << 20], 1.0)\n"  # 16 MiB: 4096 pages, 20 times
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)"
    )
    kept = int(run(code, {}, {}).stdout)  # a block may move a few times before it finds its place
    given_back = int(run(code, {"MALLOC_ARENA_MAX": "4"}, {}).stdout)  # the user's tuning is left alone
    assert kept < 10 * 4096 < 19 * 4096 < given_back
