"""A process that loads pictures is killed: one line, and how to go on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ppcls_ext.errors import PpclsExtError
from ppcls_ext.training.loaders import explained_workers
from tests.helpers import wait_for

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    "error",
    [
        SystemError("(Fatal) DataLoader process (pid 7) exited is killed by signal: Killed. (at /paddle/x.cc:185)"),
        RuntimeError("DataLoader 1 workers exit unexpectedly, pids: 7"),
        OSError(  # the first, inside a gradient
            "(External) \n{\n    ==== Error message in backward of GradNodePyLayer__Node(0x5564)====\n    SystemError: "
            "(Fatal) DataLoader process (pid 7) exited is killed by signal: Killed. (at /paddle/x.cc:185)\n    \n    "
            "At:\n      /x/maps.py(8): backward\n    \n    ====\n    \n}\n (at /paddle/y.cc:177)\n"
        ),
    ],
)
def test_both_of_paddles_words(error):
    with pytest.raises(PpclsExtError, match=r"a process that loads pictures died \(DataLoader .*\): .*; run it again$"):
        fail(error)


def fail(error: Exception) -> None:
    with explained_workers():
        raise error


def test_other_errors_pass():
    with pytest.raises(RuntimeError, match="something else"):
        fail(RuntimeError("something else"))


@pytest.mark.slow
def test_a_killed_worker_of_a_real_training(config_file, tmp_path):
    options = ["Global.epochs=500", "Arch.name=FasterNet_T0", "DataLoader.Train.loader.num_workers=2"]
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "tools" / "train.py"), "-c", str(config_file), "-o", *options],
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    wait_for("[Epoch 2/500]", tmp_path / "output" / "FasterNet_T0" / "train.log", process)
    for _ in range(10_000):
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        if children:
            os.kill(int(children[-1]), signal.SIGKILL)
            break
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 1
    last = errors.splitlines()[-1]
    assert "a process that loads pictures died" in last
    assert "resume with " in last
