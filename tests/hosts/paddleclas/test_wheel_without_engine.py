"""The wheel of PaddleClas 2.6.0, from the package index: it has no engine, and our models build with it."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
BUILD = """
import sys
sys.path.insert(0, sys.argv[1])
import ppcls_ext
ppcls_ext.register()
import paddle
from ppcls.arch import build_model
for name in ("MobileOne_S0", "RepVGG_A0", "FasterNet_T0"):
    model = build_model({"Arch": {"name": name, "class_num": 3}, "Global": {"device": "cpu"}})
    model.eval()
    print(name, model(paddle.zeros([1, 3, 32, 32])).shape, type(model).__module__)
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The unpacked wheel; skipped where the package index cannot be reached."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--quiet",
        "--no-deps",
        "--dest",
        str(folder),
        "paddleclas==2.6.0",
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"paddleclas 2.6.0 cannot be had from the package index: {done.stderr.strip()[-200:]}")
    zipfile.ZipFile(next(folder.glob("*.whl"))).extractall(folder)
    return folder / "paddleclas"


def run(wheel, *command):
    environment = {**os.environ, "PADDLECLAS_HOME": str(wheel)}
    return subprocess.run([sys.executable, *map(str, command)], capture_output=True, text=True, env=environment)


@pytest.mark.slow
def test_models_build(wheel):
    done = run(wheel, "-c", BUILD, ROOT)
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if "ppcls_ext.models" in line]
    assert [line.split()[0] for line in lines] == ["MobileOne_S0", "RepVGG_A0", "FasterNet_T0"]
    assert all("[1, 3]" in line for line in lines)


@pytest.mark.slow
def test_training_says_what_is_missing(wheel):
    done = run(wheel, ROOT / "tools" / "train.py", "-c", ROOT / "configs" / "MobileOne_S0.yml")
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "no training engine" in done.stderr
    assert "PADDLECLAS_HOME" in done.stderr
