"""`make install`: a .venv that was left unfinished, or has another Python, is not taken for what was asked for."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
# stands in for python3 and for .venv's: it tells a version, makes a .venv with itself inside, and installs nothing
PYTHON = """#!/bin/sh
case "$1 $2" in
  "-c "*) echo 3.99 ;;
  "-m venv") mkdir -p .venv/bin && cp "$0" .venv/bin/python ;;
  "-m pip") test ! -e offline ;;
esac
"""


@pytest.fixture
def make(tmp_path):
    if shutil.which("make") is None:
        pytest.skip("needs make")
    shutil.copy(ROOT / "Makefile", tmp_path)
    (tmp_path / "setup.py").touch()
    for name in ("python3.99", "python3.98"):
        (tmp_path / name).write_text(PYTHON.replace("3.99", name.removeprefix("python")))
        (tmp_path / name).chmod(0o755)

    def run(*arguments: str) -> subprocess.CompletedProcess:
        return subprocess.run(["make", *arguments], cwd=tmp_path, capture_output=True, text=True)

    return run


def test_an_installation_that_broke_off_starts_afresh(make, tmp_path):
    (tmp_path / "offline").touch()
    assert make("install", "PYTHON=./python3.99").returncode != 0
    (tmp_path / ".venv" / "half").touch()
    (tmp_path / "offline").unlink()
    second = make("install", "PYTHON=./python3.99")
    assert second.returncode == 0, second.stderr
    assert ".venv was left unfinished: it is made anew" in second.stdout
    assert not (tmp_path / ".venv" / "half").exists()
    third = make("install", "PYTHON=./python3.99")
    assert "Nothing to be done" in third.stdout


def test_another_python_is_refused(make, tmp_path):
    assert make("install", "PYTHON=./python3.98").returncode == 0
    other = make("install", "PYTHON=./python3.99")
    assert other.returncode != 0
    assert ".venv has Python 3.98, and PYTHON=./python3.99 is 3.99: run make clean first" in other.stderr
    assert (tmp_path / ".venv" / ".installed").exists(), "nothing is lost"
    assert make("clean", "PYTHON=./python3.99").returncode == 0
    assert make("install", "PYTHON=./python3.99").returncode == 0
