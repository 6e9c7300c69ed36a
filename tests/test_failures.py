"""docs/reference/errors.md: the tests that it names as proofs exist."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "docs" / "reference" / "errors.md").read_text(encoding="utf-8")


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


def texts_of_the_package() -> str:
    """Every text in the package's code, with a line break where a value is filled in."""
    found = []
    for path in (ROOT / "ppcls_ext").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            parts = node.values if isinstance(node, ast.JoinedStr) else [node]
            found += [
                part.value if isinstance(part, ast.Constant) and type(part.value) is str else "\n" for part in parts
            ]
    return "\n".join(found)


def test_every_quoted_message_is_one_that_the_package_prints():
    """What stands between the values, from two words on; a value may also be the first or the last word."""
    texts = texts_of_the_package()
    rows = [re.split(r"(?<!\\)\|", line)[2] for line in TEXT.splitlines() if line.startswith("|") and "::" in line]
    quoted = [message for row in rows for message in re.findall(r"`([^`]+)`", row) if "*" not in message]
    values = r"…|[:;,]|\b[A-Z][A-Z_]*\b|\b\d[\d.]*\b|\b[A-Z]\w+(\.\w+)+|-o .*|No space left on device"
    pieces = [piece.strip(" =-") for message in quoted for piece in re.sub(values, "\n", message).split("\n")]
    pieces = [piece for piece in pieces if len(piece.split()) > 1]
    assert len(pieces) > 20
    for piece in pieces:
        shorter = piece.partition(" ")[2], piece.rpartition(" ")[0]
        assert any(text in texts for text in (piece, *shorter)), piece
