"""Figures about classes and pictures, computed by hand for a small case."""

from __future__ import annotations

import numpy as np
import pytest

from ppcls_ext.errors import PpclsExtError
from ppcls_ext.report.predictions import (
    Predictions,
    confused_pairs,
    confusion_matrix,
    per_class,
    reliability,
    worst_mistakes,
)

SMALL = Predictions(
    ["a", "b", "c", "d"],
    np.array([0, 0, 1, 2]),
    np.array([[0.9, 0.1, 0.0], [0.3, 0.6, 0.1], [0.1, 0.8, 0.1], [0.05, 0.95, 0.0]]),
    ["rose", "tulip"],
)


def test_counts():
    assert confusion_matrix(SMALL).tolist() == [[1, 1, 0], [0, 1, 0], [0, 1, 0]]
    assert SMALL.accuracy() == 0.5
    assert SMALL.accuracy(2) == 0.75
    assert list(worst_mistakes(SMALL, 9)) == [3, 1]


def test_per_class():
    rows = per_class(SMALL)
    assert [row["accuracy"] for row in rows] == [0.5, 1.0, 0.0]
    assert [row["precision"] for row in rows] == [1.0, pytest.approx(1 / 3), None]
    assert [row["most_often_taken_for"] for row in rows] == ["tulip", None, "tulip"]
    assert [row["name"] for row in rows] == ["rose", "tulip", "class 2"]


def test_confused_pairs():
    pairs = confused_pairs(SMALL)
    assert [(pair["true"], pair["predicted"], pair["pictures"], pair["share"]) for pair in pairs] == [
        ("rose", "tulip", 1, 0.5),
        ("class 2", "tulip", 1, 1.0),
    ]


def test_calibration_error():
    curve = reliability(SMALL, bins=10)
    assert curve.counts.sum() == 4
    right = np.array([True, False, True, False])
    # bins of one picture each, but 0.9 and 0.95, which may share one
    shared = curve.counts.max() == 2
    apart = np.abs(SMALL.confidence - right)
    together = (apart[1] + apart[2] + abs(SMALL.confidence[[0, 3]].sum() - 1)) / 4
    assert curve.error == pytest.approx(together if shared else apart.mean())
    sure = Predictions(["a"] * 4, np.zeros(4, int), np.tile([[1.0, 0.0]], (4, 1)))
    assert reliability(sure).error == 0


def test_what_is_no_evaluation():
    with pytest.raises(PpclsExtError, match="0 images"):
        Predictions([], np.zeros(0, int), np.zeros((0, 3))).check()
    with pytest.raises(PpclsExtError, match="not finite"):
        Predictions(SMALL.paths, SMALL.labels, np.full((4, 3), np.nan)).check()
