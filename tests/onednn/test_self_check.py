"""A library that computes something else under the same names is not used, and one line says so."""

from __future__ import annotations

import warnings

import pytest

from ppcls_ext.onednn import builders, find
from ppcls_ext.onednn.self_check import largest_difference

pytestmark = pytest.mark.skipif(find.library() is None, reason="this Paddle has no oneDNN that can be called")


@pytest.fixture(autouse=True)
def afresh():
    yield
    find._search.cache_clear()


def test_the_library_here_agrees():
    assert largest_difference(find.library())[1] <= find.TOLERANCE


@pytest.mark.parametrize(
    ("number", "value"),
    [
        ("RELU", 0x21),
        ("GELU", 0x20),
        ("_SQUARE", 0x24),
        ("_RELU_FROM_OUTPUT", 0x101),
        ("_ADD", 0x1FFF2),
        ("_MULTIPLY", 0x1FFF0),
        ("_POST_OP", 0x4000),
        ("_POST_OP", 0x10000),
        ("_SCALE", 53),
        ("_DIFF_SCALE", 257),
        ("_GIVEN_STATISTICS", 0),
        ("_SCALE_AND_SHIFT", 2),
    ],
)
def test_changed_numbers_are_noticed(number, value, monkeypatch):
    monkeypatch.setattr(builders, number, value)
    find._search.cache_clear()
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        assert find.library() is None
    texts = [str(warning.message) for warning in said]
    assert len(texts) == 1
    assert "it is not used" in texts[0]
    assert "\n" not in texts[0]
