"""Configurations and overrides that would take all memory or never end."""

from __future__ import annotations

import os
import time
import tracemalloc

import pytest

from ppcls_ext.bounded_yaml import load_yaml
from ppcls_ext.config.load import load_config
from ppcls_ext.errors import PpclsExtError

MIB = 1 << 20


def laughs(first: str, line: str, count: int = 40) -> str:
    lines = [f"a0: &a0 {first}", *(line.format(here=f"a{i}", before=f"a{i - 1}") for i in range(1, count))]
    return "\n".join(lines)


BOMBS = {
    "aliases in lists": laughs("[x, x]", "{here}: &{here} [*{before}, *{before}, *{before}]"),
    "aliases in mappings": laughs("{k: v}", "{here}: &{here} {{p: *{before}, q: *{before}}}"),
    "merge keys": laughs("{k: v}", "{here}: &{here} {{<<: [*{before}, *{before}, *{before}]}}"),
    "merge keys with others": laughs("{k: v}", "{here}: &{here} {{<<: [*{before}, *{before}], {here}: 1}}"),
    "aliases as keys": laughs("[x]", "? &{here} [*{before}, *{before}]\n: 1"),
    "chain of aliases": laughs("[x]", "{here}: &{here} [*{before}]", 3000),
    "cycle": "Global: &a\n  b: *a",
    "cycle in a list": "Global: &a [*a]",
    "cycle of merge keys": "Global: &a\n  <<: *a",
    "longer cycle": "Global: &a {b: &b {c: *a, d: *b}}",
    "nested lists": "Global: " + "[" * 20_000,
    "nested mappings": "Global: " + "{a: " * 20_000,
    "nested blocks": "Global:\n" + "\n".join(" " * (i + 1) + "a:" for i in range(500)),
    "nested sequence": "Global: \n" + "- " * 20_000,
    "decimal number": "Global: {epochs: " + "9" * 20_000 + "}",
    "hexadecimal number": "Global: {epochs: 0x" + "f" * 20_000 + "}",
    "sexagesimal number": "Global: {epochs: 1" + ":59" * 6_000 + "}",
    "sexagesimal fraction": "Global: {epochs: 1" + ":59" * 6_000 + ".5}",
    "sum": "Global: {x: " + "1+" * 100_000 + "1}",  # PaddleClas hands texts to Python's parser
    "long file": "Global: # " + "x" * MIB,
}


REASONS = ("refused: ", "is larger than the 262,144 bytes")


def refused(path, overrides=()) -> str:
    tracemalloc.start()
    started = time.perf_counter()
    try:
        with pytest.raises(PpclsExtError) as caught:
            load_config(path, overrides)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert time.perf_counter() - started < 120
    assert peak < 150 * MIB
    message = str(caught.value)
    assert len(message) < 500
    assert "\n" not in message
    return message


@pytest.mark.parametrize("bomb", BOMBS)
def test_files(tmp_path, bomb):
    path = tmp_path / "bomb.yml"
    path.write_text(BOMBS[bomb])
    message = refused(path)
    assert str(path) in message
    assert any(reason in message for reason in REASONS), "on purpose, not by Python's own limits"


OVERRIDES = {
    "aliases": "Global.x={a: &a [1, 1], b: &b [*a, *a], " + ", ".join(
        f"c{i}: &c{i} [*{'b' if i == 0 else f'c{i - 1}'}, *{'b' if i == 0 else f'c{i - 1}'}]" for i in range(40)
    ) + "}",
    "merge keys": "Global.x={a: &a {k: v}, b0: &b0 {<<: [*a, *a]}, " + ", ".join(
        f"b{i}: &b{i} {{<<: [*b{i - 1}, *b{i - 1}]}}" for i in range(1, 40)
    ) + "}",
    "cycle": "Global.x=[&a {b: *a}]",
    "deep path": ".".join(["Global"] + ["x"] * 5000) + "=1",
    "deeper than a configuration": ".".join(["Global"] + ["x"] * 100) + "=1",
    "long": "Global.x=" + "[" + "1, " * 100_000 + "]",
    "index": "DataLoader.Train.dataset.transform_ops." + "9" * 5000 + "=1",
    "sexagesimal number": "Global.x=[1" + ":59" * 3000 + "]",
}  # fmt: skip


LONG = ("deep path", "long")


@pytest.mark.parametrize("bomb", OVERRIDES)
def test_overrides(config_file, bomb):
    message = refused(config_file, [OVERRIDES[bomb]])
    assert message.startswith("override ")
    assert bomb not in LONG or "it is longer than 10,000 characters" in message


@pytest.mark.parametrize("value", ["-" * 9000, "1+" * 4000 + "1", "(" * 9000, "0x" * 4000, "1if 1else " * 900 + "1"])
def test_odd_texts_stay_texts_without_warnings(config_file, value, recwarn):
    assert load_config(config_file, [f"Global.x={value}"])["Global"]["x"] == value
    assert not recwarn.list


def test_ordinary_aliases_and_merge_keys_work():
    text = "a: &a {x: 1, y: [1, 2]}\nb: {<<: *a, x: 2}\nc: *a\nd: [*a, *a]"
    a = {"x": 1, "y": [1, 2]}
    assert load_yaml(text) == {"a": a, "b": {"x": 2, "y": [1, 2]}, "c": a, "d": [a, a]}
    assert load_yaml("") is None


@pytest.mark.parametrize("kind", ["FIFO", "device", "endless device"])
def test_what_is_no_file(tmp_path, kind):
    path = {"FIFO": tmp_path / "fifo", "device": "/dev/null", "endless device": "/dev/zero"}[kind]
    if kind == "FIFO":
        os.mkfifo(path)
    assert "expected a regular file" in refused(path)
