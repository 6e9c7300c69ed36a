"""oneDNN has other code, and other errors, for older processors: the same tests there, its memory between walls."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from ppcls_ext.onednn import find
from tests.helpers import ROOT

TESTS = [f"tests/onednn/test_{name}.py" for name in ("products", "unfolded", "convolution", "statistics")]


@pytest.mark.slow
@pytest.mark.skipif(find.library() is None, reason="this Paddle has no oneDNN that can be called")
@pytest.mark.parametrize("instructions", ["AVX2", "SSE41"])
def test_older_processors(instructions):
    # <dnnl_config.h>: the newest instructions that oneDNN may use; with AVX2 one gradient never ended
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *TESTS],
        env={**os.environ, "ONEDNN_MAX_CPU_ISA": instructions},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout[-3000:]
