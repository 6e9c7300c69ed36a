"""The overrides of -o: `A.B.1.C=value`."""

from __future__ import annotations

import contextlib
from typing import Any

import yaml

from ppcls_ext.bounded_yaml import LONGEST_TEXT, MAX_DEPTH, Refused, load_yaml
from ppcls_ext.configuration.arithmetic import evaluate
from ppcls_ext.configuration.literals import read_literal
from ppcls_ext.errors import PpclsExtError

YAML_WORDS = {"true": True, "false": False, "null": None}


def apply_override(config: dict, text: str) -> None:
    """Changes `config` by one override; see `load_config`.

    Raises:
        PpclsExtError: it fits nothing.
    """
    if len(text) > LONGEST_TEXT:
        raise PpclsExtError(
            f"override {_short(text)!r}: it is longer than {LONGEST_TEXT:,} characters: put it into the file"
        )
    path, equals, value = text.partition("=")
    parts = path.strip().split(".")
    text = _short(text)
    if len(parts) > MAX_DEPTH:
        raise PpclsExtError(f"override {text!r}: it is more than {MAX_DEPTH} levels deep, as no configuration is")
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


def _short(text: str) -> str:
    return text if len(text) <= 100 else f"{text[:100]}…"


def _key(node: Any, part: str, above: list[str], text: str) -> str | int:
    """`part` as a key of `node`, which stands at the path `above`."""
    where = ".".join(above)
    if isinstance(node, dict):
        return part
    if not isinstance(node, list):
        raise PpclsExtError(f"override {text!r}: {_short(where)} is {_short(repr(node))}, which has no fields")
    if not part.isdecimal() or len(part) > 9 or int(part) >= len(node):
        raise PpclsExtError(
            f"override {text!r}: {where} is a list of {len(node)}: expected 0 to {len(node) - 1}, not {_short(part)}"
        )
    return int(part)


def _parse_value(value: str, old: Any, text: str) -> Any:
    if value in YAML_WORDS:
        return YAML_WORDS[value]
    with contextlib.suppress(ValueError):
        literal = read_literal(value)
        if literal is None or isinstance(literal, (bool, int, float, str, list, tuple, dict)):
            return literal
    if value[:1] in ("[", "{"):
        try:
            return load_yaml(value)
        except Refused as error:
            raise PpclsExtError(f"override {text!r}: {error.problem}") from None
        except yaml.YAMLError:
            raise PpclsExtError(
                f"override {text!r}: {_short(value)} is neither a Python nor a YAML list or mapping"
            ) from None
        except PpclsExtError as error:
            raise PpclsExtError(f"override {text!r}: {error}") from None
    if isinstance(old, (int, float)) and not isinstance(old, bool):
        with contextlib.suppress(ValueError):
            return evaluate(value)
    return value
