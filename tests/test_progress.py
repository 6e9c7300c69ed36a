"""What takes longer than two seconds shows how far it is; what is quick shows nothing."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from ppcls_ext import progress


@pytest.fixture
def clock(monkeypatch):
    """Seconds that pass only when a test says so."""
    now = [100.0]
    monkeypatch.setattr(progress, "FIRST", 2.0)
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_lines_where_there_is_no_terminal(clock, capsys):
    with progress.progress("unfusing") as report:
        for done, seconds in ((1, 1.0), (2, 1.5), (3, 1.0), (4, 10.0), (5, 15.0)):
            clock[0] += seconds
            report(done, 5)
    assert capsys.readouterr().err.splitlines() == ["unfusing: 2 of 5 images, 2 s", "unfusing: 5 of 5 images, 28 s"]


def test_what_is_quick_says_nothing(clock, capsys):
    with progress.progress("unfusing", "steps") as report:
        clock[0] += 1.9
        report(5, 5)
    assert capsys.readouterr().err == ""


def test_ticks_count_up(clock, capsys):
    with progress.progress("verifying") as report:
        tick = progress.ticks(report, 9)
        tick()
        clock[0] += 3
        tick(4)
    assert capsys.readouterr().err == "verifying: 5 of 9 images, 3 s\n"


def test_predicting_needs_no_tqdm(clock, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "tqdm", None)
    monkeypatch.setattr(progress.sys.stderr, "isatty", lambda: True, raising=False)
    with progress.progress("predicting") as report:
        clock[0] += 3
        report(1, 2)
        progress.say("error: a.png: no such file")
    assert capsys.readouterr().err == "predicting: 1 of 2 images, 3 s\nerror: a.png: no such file\n"


TERMINAL = """
import sys, time
from ppcls_ext import progress
progress.FIRST = float(sys.argv[1])
with progress.progress("predicting") as report:
    for done in range(1, 4):
        time.sleep(0.15)
        report(done, 3)
        if done == 2:
            progress.say("error: a.png")
print("done", file=sys.stderr)
"""


@pytest.mark.parametrize("first", [0.0, 60.0])
def test_a_terminal_shows_a_bar_that_goes_away(first):
    """The bar is on a line of its own, and nothing of it is left; there is none in the first seconds."""
    pty, termios = (pytest.importorskip(name, reason="needs pseudo-terminals") for name in ("pty", "termios"))
    mine, theirs = pty.openpty()
    fcntl = pytest.importorskip("fcntl", reason="needs pseudo-terminals")
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))  # a bar takes the width
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[1])}
    subprocess.run([sys.executable, "-c", TERMINAL, str(first)], stderr=theirs, env=environment, check=True)
    os.close(theirs)
    text = os.read(mine, 1 << 16).decode().replace("\r\n", "\n")
    os.close(mine)
    assert ("predicting:" in text) == (first == 0)
    lines = [line.rsplit("\r", 1)[-1] for line in text.split("\n")]  # what a carriage return leaves
    assert lines == ["error: a.png", "done", ""]
