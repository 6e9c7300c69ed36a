"""The overrides of -o: `A.B.1.C=value`."""

from __future__ import annotations

import ast
from typing import Any

import yaml

from ppcls_ext.configuration.arithmetic import evaluate
from ppcls_ext.errors import PpclsExtError

YAML_WORDS = {"true": True, "false": False, "null": None}


def apply_override(config: dict, text: str) -> None:
    """Changes `config` by one override; see `load_config`.

    Raises:
        PpclsExtError: it fits nothing.
    """
    path, equals, value = text.partition("=")
    parts = path.strip().split(".")
    if not equals or not all(parts):
        raise PpclsExtError(f"override {text!r}: expected A.B.C=value, such as Global.epochs=3")
    node: Any = config
    for depth, part in enumerate(parts[:-1], 1):
        key = _key(node, part, parts[: depth - 1], text)
        child = node[key] if isinstance(node, list) else node.get(key)
        if child is None:
            child = node[key] = {}
        node = child
    key = _key(node, parts[-1], parts[:-1], text)
    old = node[key] if isinstance(node, list) else node.get(key)
    node[key] = _parse_value(value.strip(), old, text)


def _key(node: Any, part: str, above: list[str], text: str) -> str | int:
    """`part` as a key of `node`, which stands at the path `above`."""
    where = ".".join(above)
    if isinstance(node, dict):
        return part
    if not isinstance(node, list):
        raise PpclsExtError(f"override {text!r}: {where} is {node!r}, which has no fields")
    if not part.isdecimal() or int(part) >= len(node):
        raise PpclsExtError(
            f"override {text!r}: {where} is a list of {len(node)}: expected 0 to {len(node) - 1}, not {part}"
        )
    return int(part)


def _parse_value(value: str, old: Any, text: str) -> Any:
    if value in YAML_WORDS:
        return YAML_WORDS[value]
    try:
        literal = ast.literal_eval(value)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        pass
    else:
        if literal is None or isinstance(literal, (bool, int, float, str, list, tuple, dict)):
            return literal
    if value[:1] in ("[", "{"):
        try:
            return yaml.safe_load(value)
        except Exception:  # as above
            raise PpclsExtError(f"override {text!r}: {value} is neither a Python nor a YAML list or mapping") from None
    if isinstance(old, (int, float)) and not isinstance(old, bool):
        try:
            return evaluate(value)
        except ValueError:
            pass
    return value
