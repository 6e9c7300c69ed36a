"""Tables in CSV: nothing in a cell is run by a spreadsheet, and every table is written in one way."""

from __future__ import annotations

import ast
import csv
import io
from pathlib import Path

import pytest

from ppcls_ext.csv_table import CsvWriter, cell
from ppcls_ext.report.latency import write_latencies
from ppcls_ext.report.tables import read_metrics, write_table

PACKAGE = Path(__file__).resolve().parents[1] / "ppcls_ext"
#: What a spreadsheet may take for a formula; see OWASP, "CSV Injection".
STARTS = [
    "=",
    "+",
    "-",
    "@",
    "\t=",
    "\r=",
    "\n=",
    '"=',
    "'=",
    " =",
    "\ufeff=",
    '\ufeff"=',
    "＝",
    "＋",
    "－",
    "＠",
    "\xa0=",
]


def read(text: str) -> list[list[str]]:
    return list(csv.reader(io.StringIO(text, newline="")))


@pytest.mark.parametrize("start", STARTS)
def test_no_cell_is_a_formula(start):
    text = cell(f"{start}cmd|' /C calc'!A0")
    assert text.isprintable() or "\xa0" in text
    assert text[0] in "'\\"
    assert text.endswith("cmd|' /C calc'!A0")
    # and what comes back from a spreadsheet is no formula either
    stream = io.StringIO(newline="")
    CsvWriter(stream).write(["a", f"{start}A1"])
    ((_, again),) = read(stream.getvalue())
    assert again[0] in "'\\"


@pytest.mark.parametrize("value", [-0.5, 3, float("-inf"), "-0.5", "+1", "-1e-05", "1.5E+3", "-inf", ".5", "", "rose"])
def test_numbers_and_plain_names_stay(value):
    assert cell(value) is value


@pytest.mark.parametrize("text", ["-1+cmd", "+49 30 1", "-", "--1", "-infinity", "1e", "=1"])
def test_what_is_no_number(text):
    assert cell(text) == (f"'{text}" if text[0] in "=+-" else text)


def test_control_characters_become_escapes_so_that_a_row_is_one_line():
    stream = io.StringIO(newline="")
    CsvWriter(stream).write(["rose\x1b[2J", "two\nlines", "a,b", "菊花", "\u202etxt"])
    assert stream.getvalue().count("\n") == 1
    assert read(stream.getvalue()) == [["rose\\x1b[2J", "two\\nlines", "a,b", "菊花", "\\u202etxt"]]


def test_tables_of_reports_and_of_latencies(tmp_path):
    write_table(tmp_path / "t.csv", ("name", "share", "=x"), [{"name": "=HYPERLINK(1)", "share": -0.5, "=x": None}])
    assert read((tmp_path / "t.csv").read_text()) == [["name", "share", "'=x"], ["'=HYPERLINK(1)", "-0.5", ""]]
    row = {"model": "=m.onnx", "form": "fp32", "runtime": "onnxruntime", "threads": 1, "px": 8, "median": 1.5}
    list(write_latencies(tmp_path, [row], 3, {}))
    assert (tmp_path / "bench.csv").read_text().splitlines()[1] == "'=m.onnx,fp32,onnxruntime,1,8,1.5"


def test_numbers_that_are_not_finite_are_read_back(tmp_path):
    write_table(tmp_path / "m.csv", ("epoch", "train_loss"), [{"epoch": 1, "train_loss": float("-inf")}])
    assert read_metrics(tmp_path / "m.csv") == [{"epoch": 1.0, "train_loss": float("-inf")}]


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_there_is_one_writer(path):
    names = {
        ast.unparse(node)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if node.__class__ is ast.Attribute
    }
    assert path.name == "csv_table.py" or not names & {"csv.writer", "csv.DictWriter"}
