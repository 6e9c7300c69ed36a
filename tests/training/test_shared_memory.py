"""Trainings in containers whose shared memory is small: they end, with the same result as without it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FIELDS = ("num_workers=2", "use_shared_memory=True")
SHARED = [f"DataLoader.{loader}.loader.{field}" for loader in ("Train", "Eval") for field in FIELDS]


def own_namespace() -> bool:
    """Whether this user may mount a small /dev/shm for a command alone."""
    if shutil.which("unshare") is None:
        return False
    mount = ["unshare", "-m", "mount", "-t", "tmpfs", "-o", "size=64k", "none", "/dev/shm"]
    return subprocess.run(mount, capture_output=True).returncode == 0


def train(folder: Path, config_file: Path, size: str) -> tuple[str, str]:
    """The numbers of the epoch, and the line about shared memory."""
    folder.mkdir()
    command = [sys.executable, str(ROOT / "tools" / "train.py"), "-c", str(config_file), "-o", "Arch.name=FasterNet_T0"]
    script = f'mount -t tmpfs -o size={size} none /dev/shm && exec "$@"'
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", script, "sh", *command, *SHARED],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    numbers = re.search(r"epoch 1/1: (.*), [\d.,]+ images/s.* \| (evaluation: .*), best", done.stdout)
    return numbers.groups(), "".join(line for line in done.stderr.splitlines() if "/dev/shm" in line)


@pytest.mark.slow
@pytest.mark.skipif(not own_namespace(), reason="needs the right to mount")
def test_a_small_shared_memory(tmp_path, config_file):
    results = []
    for size, done in (("4k", "no processes are started"), ("1m", "batches go through pipes")):
        numbers, line = train(tmp_path / size, config_file, size)
        assert done in line
        results.append(numbers)
    assert results[0] == results[1]
