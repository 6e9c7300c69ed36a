"""docs/failures.md: the tests that it names as proofs exist."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "docs" / "failures.md").read_text(encoding="utf-8")


def functions_in(path: str) -> set[str]:
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")}


def test_every_proof_exists():
    named = re.findall(r"(tests/[\w/]+\.py)::(\w+)", TEXT)
    assert len(named) > 50
    missing = [f"{path}::{name}" for path, name in named if name not in functions_in(path)]
    assert not missing


def test_every_row_has_a_proof():
    rows = [line for line in TEXT.splitlines() if line.startswith("|") and not re.match(r"\|(---|[ ]when )", line)]
    assert len(rows) > 40
    assert not [row for row in rows if "::" not in row]


def test_every_script_exists():
    for path in re.findall(r"(?:benchmarks|tools)/\w+\.py", TEXT):
        assert (ROOT / path).is_file(), path
