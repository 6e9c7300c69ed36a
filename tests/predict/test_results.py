"""Results in files: one name cannot lose them."""

from __future__ import annotations

import csv
import json
import os

import pytest

from ppcls_ext.errors import PpclsExtError
from ppcls_ext.files import atomic_write
from ppcls_ext.predict.results import write_results

ODD = os.fsdecode(b"a\xff.png")
RESULTS = [
    {"file_name": name, "class_ids": [1, 0], "scores": [0.75, 0.25], "label_names": ["菊", "rose"]}
    for name in ("good.png", ODD, "=cmd.png")
]


@pytest.mark.parametrize("suffix", [".csv", ".json"])
def test_a_name_that_is_not_utf8_is_escaped_and_said(tmp_path, caplog, monkeypatch, suffix):
    monkeypatch.setattr("ppcls_ext.predict.results.logger.propagate", True)
    path = tmp_path / f"results{suffix}"
    write_results(path, RESULTS)
    text = path.read_text(encoding="utf-8")
    names = (
        [row["file_name"] for row in csv.DictReader(text.splitlines())][::2]
        if suffix == ".csv"
        else [result["file_name"] for result in json.loads(text)]
    )
    assert names == ["good.png", "a\\udcff.png", "'=cmd.png" if suffix == ".csv" else "=cmd.png"]
    assert f"{path}: 1 file names are not UTF-8" in caplog.text


@pytest.mark.parametrize("length", [240, 255])
def test_long_names(tmp_path, length):
    path = tmp_path / ("n" * (length - 4) + ".csv")
    write_results(path, RESULTS[:1])
    assert path.is_file()
    umlauts = tmp_path / ("ü" * 125 + ".csv")
    write_results(umlauts, RESULTS[:1])
    assert umlauts.is_file()


def test_too_long_a_name_is_said(tmp_path):
    with pytest.raises(PpclsExtError, match="choose a shorter name"), atomic_write(tmp_path / ("n" * 300), "w") as file:
        file.write("x")
    assert not list(tmp_path.iterdir())
