"""States of optimizers and trainings (`.pdopt`, `.pdstates`): whatever they hold, in bounded time and memory."""

from __future__ import annotations

import contextlib
import os
import pickle
import time
import tracemalloc

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ppcls_ext.errors import PpclsExtError
from ppcls_ext.hosts.paddleclas.safe_pickle import read_pickle
from ppcls_ext.weights.bounded import MIB
from ppcls_ext.weights.files import read_weights
from ppcls_ext.weights.paddle_file import read_paddle_file
from tests.weights.files.build import named, number, numbers, program, text


def read_in_bounds(read, path) -> object:
    """What `read` returns or the message of its PpclsExtError, in bounded time and memory."""
    tracemalloc.start()
    started = time.perf_counter()
    try:
        return read(path)
    except PpclsExtError as error:
        message = str(error)
        assert len(message) < 700
        assert message.isprintable()
        return message
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 200 * MIB
        assert time.perf_counter() - started < 120


def read_as_paddle_does(path) -> object:
    with open(path, "rb") as stream:
        return read_pickle(stream)


READERS = {"ours": read_paddle_file, "Paddle's": read_as_paddle_does}


def doubled(first: object, make) -> object:
    """A structure of a few hundred bytes whose parts, one by one, are more than 10**12."""
    for _ in range(40):
        first = make(first)
    return first


ARRAY = np.zeros(MIB // 4, "float32")
BOMBS = {
    "lists": doubled([1, 2], lambda x: [x, x]),
    "tuples": doubled((1, 2), lambda x: (x, x)),
    "dicts": doubled({"a": 1}, lambda x: {"a": x, "b": x}),
    "lists in a state": {"epoch": 1, "x": doubled([], lambda x: [x, x])},
    "many lists of many": [[list(range(500))] * 500] * 100,
    "arrays in lists": [[ARRAY] * 1000],
    "deep lists": doubled([], lambda x: [[x]]),
    "deep dicts": doubled({}, lambda x: {"a": {"a": x}}),
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("bomb", BOMBS)
def test_shared_parts_are_paid_each_time(tmp_path, reader, bomb):
    path = tmp_path / "latest.pdopt"
    path.write_bytes(pickle.dumps(BOMBS[bomb], 2))
    assert "refused" in read_in_bounds(READERS[reader], path)


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("reader", READERS)
def test_an_array_is_paid_each_time(tmp_path, reader, protocol):
    """Since protocol 4 they are views of the file's bytes, of which Paddle makes copies."""
    path = tmp_path / "latest.pdopt"
    path.write_bytes(pickle.dumps({str(index): ARRAY for index in range(1000)}, protocol))
    assert "refused" in read_in_bounds(READERS[reader], path)


def test_the_least_bomb(tmp_path):
    """544 bytes, of which an attack made 6 GB."""
    path = tmp_path / "latest.pdstates"
    path.write_bytes(program(b"]q\x00", *(b"(h\x00h\x00lq\x00" for _ in range(70))))
    assert path.stat().st_size < 600
    assert "refused" in read_in_bounds(read_paddle_file, path)


@pytest.mark.parametrize("reader", READERS)
def test_a_list_that_holds_itself(tmp_path, reader):
    path = tmp_path / "latest.pdopt"
    path.write_bytes(program(b"]q\x00h\x00a"))
    assert "nested" in read_in_bounds(READERS[reader], path)


@pytest.mark.parametrize("reader", READERS)
def test_a_name_table_and_scalars(tmp_path, reader):
    path = tmp_path / "latest.pdstates"
    path.write_bytes(pickle.dumps({"metric": np.float32(0.5), "epoch": np.int64(3), "flag": np.bool_(True)}, 2))
    assert READERS[reader](path) == {"metric": 0.5, "epoch": 3, "flag": True}


@pytest.mark.parametrize("read", [read_paddle_file, read_weights])
@pytest.mark.parametrize("kind", ["FIFO", "device", "endless device", "folder"])
def test_what_is_no_file(tmp_path, read, kind):
    path = {"FIFO": tmp_path / "w.pdparams", "device": "/dev/null", "endless device": "/dev/zero", "folder": tmp_path}[
        kind
    ]
    if kind == "FIFO":
        os.mkfifo(path)
    message = read_in_bounds(read, path)
    assert str(path) in message
    assert "expected a" in message


# Fuzz

LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.binary(max_size=8)
LEAVES |= st.sampled_from([np.float32(1), np.arange(3), np.zeros((2, 0)), ("name", np.ones(2, "f4")), {1, 2}, 1j])
STATES = st.recursive(
    LEAVES,
    lambda below: st.lists(below, max_size=4) | st.dictionaries(st.text(max_size=6), below, max_size=4),
    max_leaves=12,
)
PARTS = [
    b"}",
    b"]",
    b"(",
    b")",
    b"t",
    b"l",
    b"d",
    b"s",
    b"u",
    b"a",
    b"e",
    b"0",
    b"1",
    b"2",
    b"N",
    b"K\1",
    b"q\0",
    b"h\0",
]
PARTS += [b"\x85", b"\x86", b"\x87", b"R", b"b", b"o", b"\x81", b"\x94", b"\x93", text("a"), number(1), numbers((2, 3))]
PARTS += [named(name) for name in ("builtins.tuple", "numpy.dtype", "collections.OrderedDict", "os.system")]
PARTS += [named("numpy.core.multiarray._reconstruct"), named("numpy.core.multiarray.scalar"), named("numpy.ndarray")]
QUICK = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def read_both_ways(path) -> None:
    for read in READERS.values():
        with contextlib.suppress(PpclsExtError):
            read(path)


@QUICK
@given(state=STATES, protocol=st.sampled_from([2, 3, 4, 5]), cut=st.integers(0, 400), flip=st.integers(0, 400))
def test_any_state_damaged_anywhere(tmp_path, state, protocol, cut, flip):
    content = bytearray(pickle.dumps(state, protocol))
    if flip < len(content):
        content[flip] ^= 1 << flip % 8
    (tmp_path / "x.pdopt").write_bytes(content[: cut or None])
    read_both_ways(tmp_path / "x.pdopt")


@QUICK
@given(parts=st.lists(st.sampled_from(PARTS), max_size=40), end=st.sampled_from([b".", b""]))
def test_any_program(tmp_path, parts, end):
    (tmp_path / "x.pdopt").write_bytes(b"\x80\2" + b"".join(parts) + end)
    read_both_ways(tmp_path / "x.pdopt")
