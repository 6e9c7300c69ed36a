"""Whatever stands in a configuration or an override, `load_config` returns a mapping or raises PpclsExtError."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ppcls_ext.config.load import load_config
from ppcls_ext.errors import PpclsExtError
from ppcls_ext.hosts.paddleclas import safe_eval

GOOD = (Path(__file__).resolve().parents[2] / "configs" / "MobileOne_S0.yml").read_bytes()
TOKENS = [b"{", b"}", b"[", b"]", b":", b"- ", b"&a ", b"*a", b"<<: ", b"!!python/name:os.system ", b"!!set ", b"\t"]
TOKENS += [b"? ", b"|", b">", b"'", b'"', b"#", b"%YAML 9", b"---\n", b"...\n", b"\xff", b"\0", b"\n", b"2026-13-45"]
TOKENS += [b"1e999", b"0x", b"!!timestamp x", b"!!int x", b"!!float x", b"!!binary x", b"!!omap x", b"=", b"null"]
QUICK = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@st.composite
def mutated(draw) -> bytes:
    """A good file with a few places cut out, doubled or overwritten."""
    text = GOOD
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(text)))
        length = draw(st.integers(0, 60))
        piece = draw(st.sampled_from([b"", text[start : start + length], *TOKENS]) | st.binary(max_size=8))
        text = text[:start] + piece + text[start + draw(st.sampled_from([0, length])) :]
    return text


def load(path: Path, overrides: list[str]) -> None:
    with contextlib.suppress(PpclsExtError):
        assert isinstance(load_config(path, overrides), dict)


@QUICK
@given(content=mutated() | st.binary(max_size=200))
def test_any_file(tmp_path, content):
    path = tmp_path / "any.yml"
    path.write_bytes(content)
    load(path, [])


NAMES = ["Global", "Arch", "Optimizer", "DataLoader", "Train", "dataset", "transform_ops", "0", "9", "x"]
VALUES = ["[1,", "{a", "{1: 2}", "[2026-13-45]", "!!python/name:os.system", "[" * 5000, "9" * 5000]


@QUICK
@given(
    path=st.lists(st.sampled_from(NAMES), max_size=4),
    value=st.text(max_size=30) | st.sampled_from(VALUES),
    whole=st.text(max_size=20) | st.none(),
)
def test_any_override(tmp_path, path, value, whole):
    file = tmp_path / "good.yml"
    file.write_bytes(GOOD)
    load(file, [whole if whole is not None else f"{'.'.join(path)}={value}"])


FLOW = [
    "{",
    "}",
    "[",
    "]",
    ", ",
    ": ",
    "&a ",
    "*a",
    "<<: ",
    "k",
    "1",
    "1:59:59",
    "!!int ",
    "!!binary ",
    "'",
    '"',
    "?",
    "-",
]


@QUICK
@given(
    path=st.lists(st.sampled_from([*NAMES, "-1", "1" * 30, "٣", ""]), min_size=1, max_size=40),
    pieces=st.lists(st.sampled_from(FLOW) | st.text(max_size=3), max_size=30),
)
def test_any_override_in_brackets(tmp_path, path, pieces):
    file = tmp_path / "good.yml"
    file.write_bytes(GOOD)
    load(file, [f"{'.'.join(path)}={opening}{''.join(pieces)}" for opening in ("[", "{")])
    load(file, [f"{'.'.join(path)}={''.join(pieces)}"])


@QUICK
@given(text=st.text(max_size=40) | st.text(alphabet="0123456789.+-*/()e ", max_size=40))
def test_any_arithmetic(text):
    try:
        value = safe_eval.evaluate(text)
    except ValueError:
        return
    assert isinstance(value, (int, float))


@pytest.mark.parametrize(
    "text",
    [
        "Global: " + "[" * 20_000,
        "Global: {date: 2026-13-45}",
        "Global: !!int x",
        "Global: !!timestamp x",
        "Global: !!map x",
        "? {a: b}\n: c",
        "? [[]]\n: c",
        "Global: !!binary \u1234",
    ],
)
def test_what_yaml_cannot_make(tmp_path, text):
    path = tmp_path / "bad.yml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(PpclsExtError, match=r"bad\.yml"):
        load_config(path)
