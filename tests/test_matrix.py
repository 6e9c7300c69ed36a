"""`make matrix`'s book-keeping: what the page shows is what ran."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest

from tests import matrix


def test_the_page_shows_the_record():
    assert f"{matrix.BEGIN}\n{matrix.table(json.loads(matrix.RECORD.read_text()))}\n{matrix.END}" in (
        matrix.PAGE.read_text(encoding="utf-8")
    )


@pytest.mark.parametrize(
    ("output", "earlier", "expected"),
    [
        ("1 failed\n== 1 failed, 20 passed, 3 skipped, 7 warnings in 5.10s ==", "", "1 failed, 20 passed, 3 skipped"),
        ("20 passed, 3 skipped, 4 deselected in 65.10s (0:01:05)", "", "20 passed, 3 skipped"),
        ("2 passed in 1.00s", "FAILED: 1 failed, 1 error, 20 passed, 3 skipped", "22 passed, 3 skipped (2 run twice)"),
        ("1 failed, 1 passed in 1s", "FAILED: 2 failed, 20 passed", "1 failed, 21 passed (2 run twice)"),
        ("ImportError: no pytest", "", "ImportError: no pytest"),
    ],
)
def test_counts(output, earlier, expected):
    assert matrix.counts(output, earlier) == expected


@pytest.mark.parametrize(("now", "kept"), [("3.0.0", True), ("3.3.1", False)])
def test_a_row_keeps_what_ran_with_the_same_versions(monkeypatch, tmp_path, now, kept):
    (tmp_path / "3.12-newest").mkdir()
    (tmp_path / "3.12-newest" / "done").touch()
    monkeypatch.setattr(matrix, "_versions", lambda venv: {"paddlepaddle": now})
    monkeypatch.setattr(matrix, "_test", lambda venv, what, earlier: "passed: 10 passed")
    known = {
        "install": "passed",
        "paddlepaddle": "3.0.0",
        "chain": "FAILED: 1 failed",
        "fast tests": "passed: 9 passed",
    }
    args = argparse.Namespace(folder=tmp_path, keep=True, failed=False, chain_only=True)
    outcome = matrix._run("3.12-newest", "python3.12", args, known)
    assert outcome["chain"] == "passed: 10 passed"
    assert ("fast tests" in outcome) is kept


def test_rows_are_kept_in_the_order_of_the_versions(monkeypatch, tmp_path):
    monkeypatch.setattr(matrix, "RECORD", tmp_path / "matrix.json")
    monkeypatch.setattr(matrix, "PAGE", tmp_path / "page.md")
    Path(tmp_path / "page.md").write_text(f"before\n{matrix.BEGIN}\nold\n{matrix.END}\nafter\n")
    rows = ["3.9-lowest", "3.9-newest", "3.10-3.0.0", "3.10-3.2.2", "3.10-newest"]
    outcome = {"install": "passed", **dict.fromkeys(matrix.SHOWN, "1.0"), "chain": "passed: 10 passed"}
    matrix.keep({**dict.fromkeys(reversed(rows), outcome), "3.13-newest": {"install": "FAILED: no wheel"}})
    assert list(json.loads(matrix.RECORD.read_text())) == [*rows, "3.13-newest"]
    text = matrix.PAGE.read_text()
    assert text.startswith(f"before\n{matrix.BEGIN}\n| Python ")
    assert text.endswith(f"| 3.13-newest | FAILED: no wheel |{'  |' * 7}\n{matrix.END}\nafter\n")
    assert "| 3.9, lowest versions | 1.0 | 1.0 | 1.0 | 1.0 | 1.0 | 1.0 | 10 passed | not run |" in text
