"""What takes longer than two seconds shows how far it is; what is quick shows nothing."""

from __future__ import annotations

import pytest

from ppcls_ext import progress


@pytest.fixture
def clock(monkeypatch):
    """Seconds that pass only when a test says so."""
    now = [100.0]
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
