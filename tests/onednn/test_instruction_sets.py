"""oneDNN has other code, and other errors, for other processors: the same tests there, its memory between walls."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from ppcls_ext.onednn import find
from tests.helpers import ROOT

TESTS = [f"tests/onednn/test_{name}.py" for name in ("products", "unfolded", "convolution", "statistics")]


def run_with(instructions: str, *tests: str) -> None:
    """Runs tests in a process whose oneDNN uses these instructions at most (<dnnl_config.h>)."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests],
        env={**os.environ, "ONEDNN_MAX_CPU_ISA": instructions},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout[-3000:]


@pytest.mark.slow
@pytest.mark.skipif(find.library() is None, reason="this Paddle has no oneDNN that can be called")
@pytest.mark.parametrize("instructions", ["AVX2", "SSE41"])
def test_older_processors(instructions):
    run_with(instructions, *TESTS)  # with AVX2 one gradient never ended


@pytest.mark.slow
@pytest.mark.skipif(not getattr(find.library(), "has_amx", False), reason="this processor has no AMX")
def test_bfloat16_without_amx():
    run_with("AVX512_CORE_BF16", "tests/onednn/test_bfloat16.py")
