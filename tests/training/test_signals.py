"""Signals at any moment of saving: the newest complete set survives, and nothing is left that the next save minds."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ppcls_ext.weights import checkpoint_sets as atomic_set
from ppcls_ext.weights.checkpoint_sets import find_newest, read_set
from tests.helpers import wait_for
from tests.weights.test_checkpoint_sets import COMPLETE, content, epoch_of, listing, write

ROOT = Path(__file__).resolve().parents[2]


def interrupt_at(line: int, save) -> bool:
    """Runs `save`, raising KeyboardInterrupt before the line number `line` that atomic_set executes; whether it was."""
    left = line

    def trace(frame, event, argument):
        nonlocal left
        if frame.f_code.co_filename != atomic_set.__file__:
            return None
        if event == "line":
            left -= 1
            if left == 0:
                sys.settrace(None)
                raise KeyboardInterrupt
        return trace

    sys.settrace(trace)
    try:
        save()
    except KeyboardInterrupt:
        return True
    finally:
        sys.settrace(None)
    return False


def test_interrupted_before_any_line(tmp_path):
    """Exhaustive: also between the renaming of the manifest and whatever follows it."""
    prefix = tmp_path / "latest"
    write(prefix, 1)
    line, epoch, seen = 0, 1, set()
    while True:
        line += 1
        if not interrupt_at(line, lambda: write(prefix, epoch + 1)):  # noqa: B023
            break
        after = epoch_of(prefix)
        assert after in (epoch, epoch + 1), "one of the two, whole"
        assert find_newest(tmp_path)[0].state["epoch"] == after
        seen.add(after - epoch)
        epoch = after
    assert line > 60
    assert seen == {0, 1}
    assert epoch_of(prefix) == epoch + 1
    assert listing(tmp_path) == COMPLETE


SAVER = """
import itertools, signal, sys
from pathlib import Path
from tests.weights.test_checkpoint_sets import write
if sys.argv[2] == "SIGTERM":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored below a shell's background job
for epoch in itertools.count(int(sys.argv[3])):
    write(Path(sys.argv[1]) / "latest", epoch)
    print(epoch, flush=True)
"""


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGKILL"])
def test_signals_at_random_moments(tmp_path, name):
    """What a process said to be saved is there, or what it saved after that, as a whole."""
    rng, epoch = random.Random(7), 1
    for _ in range(6):
        process = subprocess.Popen(
            [sys.executable, "-c", SAVER, str(tmp_path), name, str(epoch)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        said = [int(process.stdout.readline())]
        time.sleep(rng.uniform(0, 0.1))
        process.send_signal(getattr(signal, name))
        said += map(int, process.communicate(timeout=60)[0].split())
        found = epoch_of(tmp_path / "latest")
        assert found >= max(said), "nothing that was saved is lost"
        epoch = found + 1
    write(tmp_path / "latest", epoch)
    assert listing(tmp_path) == COMPLETE


def test_two_interrupts_in_a_row(tmp_path):
    """The second one comes while the first is being answered."""
    prefix = tmp_path / "latest"
    write(prefix, 1)
    for first in range(1, 60, 7):
        for second in range(first + 1, first + 40, 9):
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(atomic_set.SetWriter, "close", interrupted(atomic_set.SetWriter.close, second - first))
                interrupt_at(first, lambda: write(prefix, 2))
            assert read_set(prefix).file(".pdopt").read_bytes() in (content(1, ".pdopt"), content(2, ".pdopt"))
            assert epoch_of(prefix) in (1, 2)


def interrupted(method, line: int):
    def wrapped(self):
        if interrupt_at(line, lambda: method(self)):
            raise KeyboardInterrupt

    return wrapped


@pytest.mark.slow
@pytest.mark.parametrize(("name", "workers"), [("SIGINT", 0), ("SIGTERM", 2), ("SIGHUP", 2)])
def test_a_stopped_training_says_how_to_go_on(tmp_path, config_file, name, workers):
    """The real tool, interrupted while it trains: one line that says how to go on."""
    command = [sys.executable, str(ROOT / "tools" / "train.py"), "-c", str(config_file), "-o", "Global.epochs=500"]
    process = subprocess.Popen(
        [*command, "Arch.name=FasterNet_T0", f"DataLoader.Train.loader.num_workers={workers}"],
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: [signal.signal(number, signal.SIG_DFL) for number in (signal.SIGINT, signal.SIGHUP)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    wait_for("[Epoch 2/500]", tmp_path / "output" / "FasterNet_T0" / "train.log", process)
    # a terminal tells all of its processes: none that loads images may die first, and be what is told
    (os.killpg if name == "SIGHUP" else os.kill)(process.pid, getattr(signal, name))
    _, errors = process.communicate(timeout=120)
    assert process.returncode == (130 if name == "SIGINT" else 1)
    assert "resume with the same command and --resume output/FasterNet_T0: " in errors.splitlines()[-1]
    assert read_set(tmp_path / "output" / "FasterNet_T0" / "latest").state["epoch"] >= 1
