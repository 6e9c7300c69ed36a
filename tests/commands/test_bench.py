"""bench: a row for each form, runtime and number of threads, in three files."""

from __future__ import annotations

import csv
import json
from importlib.metadata import PackageNotFoundError, version

import pytest

from ppcls_ext.commands import bench
from ppcls_ext.commands.outcome import run
from ppcls_ext.predict.latency import measure


def test_files_take_turns(exported, tmp_path, capsys):
    _, path, _ = exported
    assert run(lambda: bench.main([str(path), "--threads", "1", "2", "--turns", "3", "--output", str(tmp_path)])) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].split()[:5] == ["model", "form", "runtime", "threads", "px"]
    rows = list(csv.DictReader((tmp_path / "bench.csv").open()))
    assert [(row["model"], row["form"], row["threads"], row["px"]) for row in rows] == [
        ("tiny.onnx", "file", "1", "16"),
        ("tiny.onnx", "file", "2", "16"),
    ]
    assert all(0 < float(row["low"]) <= float(row["median"]) <= float(row["high"]) for row in rows)
    said = json.loads((tmp_path / "bench.json").read_text())
    assert said["turns"] == 3
    assert said["machine"]
    assert said["versions"] == f"onnxruntime {version('onnxruntime')}"
    assert said["versions"] in (tmp_path / "bench.md").read_text()
    assert len(said["rows"]) == 2
    assert "| model | px | threads | file, onnxruntime |" in (tmp_path / "bench.md").read_text()
    assert not (tmp_path / "bench.png").exists()  # no published accuracy to draw


def test_a_runtime_of_another_distribution(exported, tmp_path, monkeypatch):
    """As onnxruntime-gpu, whose version goes by that name: what was measured is not lost."""

    def unknown(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr("importlib.metadata.version", unknown)
    _, path, _ = exported
    assert run(lambda: bench.main([str(path), "--turns", "2", "--output", str(tmp_path)])) == 0
    assert json.loads((tmp_path / "bench.json").read_text())["versions"] == "onnxruntime"


@pytest.mark.slow
def test_the_forms_of_a_model(tmp_path, capsys):
    options = ["--forms", "unfused", "fused", "int8", "fp16", "--px", "32", "--turns", "2", "--output", str(tmp_path)]
    assert run(lambda: bench.main(["MobileOne_S0", *options])) == 0
    rows = list(csv.DictReader((tmp_path / "bench.csv").open()))
    assert [row["form"] for row in rows] == ["unfused", "fused", "int8", "fp16"]
    assert float(rows[0]["ratio"]) == 1
    assert all(float(row["ratio"]) > 0 for row in rows)
    assert not (tmp_path / "bench.png").exists()
    assert capsys.readouterr().out.splitlines()[-1] == "no bench.png: the accuracies are published for 224 px"


def test_calls_take_turns_and_warm_up_does_not_count():
    calls = []
    found = measure({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, turns=4)
    assert calls == ["a", "b"] * 9
    assert found["a"].ratio == 1
    assert set(found) == {"a", "b"}


def test_what_is_neither_a_model_nor_a_file_is_refused(capsys):
    assert run(lambda: bench.main(["MobileOne_S9"])) == 1
    assert "MobileOne_S9: no such file, and no model: expected one of MobileOne_S" in capsys.readouterr().err


def test_files_are_one_set(exported, tmp_path, monkeypatch):
    """Written among files of the user's, or not at all."""
    _, path, _ = exported
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "bench.png").write_text("of an earlier measurement")

    def write_half(folder, rows, turns, published):
        (folder / "bench.json").write_text("{}")
        raise OSError(28, "No space left on device")

    options = ["--turns", "2", "--output", str(tmp_path)]
    with monkeypatch.context() as patch:
        patch.setattr(bench, "write_latencies", write_half)
        assert run(lambda: bench.main([str(path), *options])) == 1
    assert {path.name for path in tmp_path.iterdir()} == {"notes.txt", "bench.png"}
    assert run(lambda: bench.main([str(path), *options])) == 0
    assert {path.name for path in tmp_path.iterdir()} == {"notes.txt", "bench.json", "bench.csv", "bench.md"}
