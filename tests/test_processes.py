"""What is started ends with the process that started it, also where that is killed."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ppcls_ext.export.convert import run_apart
from ppcls_ext.processes import END_WITH_PARENT

ROOT = Path(__file__).resolve().parents[1]
CHILD = "import os, time; print(os.getpid(), flush=True); time.sleep(60)"
PARENT = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {END_WITH_PARENT + CHILD!r}])"
TOLD = "import ctypes; number = ctypes.c_int(); ctypes.CDLL(None).prctl(2, ctypes.byref(number)); print(number.value)"

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such signal")


def test_a_process_ends_with_the_one_that_started_it():
    with subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        child = int(process.stdout.readline())
        process.kill()
    until = time.monotonic() + 120
    while Path(f"/proc/{child}").exists() and " Z " not in Path(f"/proc/{child}/stat").read_text():
        assert time.monotonic() < until
        time.sleep(0.02)


def test_converters_are_told_so(tmp_path):
    assert int(run_apart(TOLD, tmp_path, os.devnull).stdout) != 0
