"""Figures about classes and pictures, computed by hand for a small case."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from ppcls_ext.errors import PpclsExtError
from ppcls_ext.predict.answers import softmax
from ppcls_ext.report import evaluation_report
from ppcls_ext.report.predictions import (
    Predictions,
    Ranked,
    confused_pairs,
    confusion_matrix,
    macro_f1,
    per_class,
    ranked,
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


@pytest.mark.parametrize("absent", [0, 2])
def test_macro_f1_is_scikit_learns(absent):
    f1_score = pytest.importorskip("sklearn.metrics").f1_score
    rng = np.random.default_rng(absent)
    labels, scores = rng.integers(absent, 5, 60), rng.random((60, 5))
    scores[:, :absent] = 0
    found = Predictions(["image"] * 60, labels, scores)
    assert macro_f1(found) == pytest.approx(f1_score(labels, scores.argmax(axis=1), average="macro"))


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


@pytest.mark.parametrize("classes", [1, 2, 7, 300])
@pytest.mark.parametrize("levels", [2, 1000])
def test_the_figures_are_those_of_sorting_everything(classes, levels):
    """Probabilities of few levels are often the same."""
    random = np.random.default_rng(classes)
    probabilities = (random.integers(0, levels, (600, classes)) / levels).astype(np.float32)
    labels = random.integers(0, classes, 600)
    found = Predictions([""] * 600, labels, probabilities)
    order = np.argsort(-probabilities, axis=1, kind="stable")
    for k in (1, 2, 5, 400):
        assert found.accuracy(k) == (order[:, :k] == labels[:, None]).any(axis=1).mean()
    assert (found.predicted == order[:, 0]).all()
    assert (found.confidence == probabilities.max(axis=1)).all()
    matrix = np.zeros((classes, classes), np.int64)
    np.add.at(matrix, (labels, order[:, 0]), 1)
    assert (confusion_matrix(found) == matrix).all()
    wrong = matrix - np.diag(np.diag(matrix))
    for index, row in enumerate(per_class(found)):
        images, taken = matrix[index].sum(), matrix[:, index].sum()
        assert row["pictures"] == images
        assert row["accuracy"] == (matrix[index, index] / images if images else None)
        assert row["precision"] == (matrix[index, index] / taken if taken else None)
        most = f"class {wrong[index].argmax()}" if wrong[index].any() else None
        assert row["most_often_taken_for"] == most
    pairs = np.argsort(-wrong, axis=None, kind="stable")[:20]
    expected = [(f"class {p // classes}", f"class {p % classes}", wrong.flat[p]) for p in pairs if wrong.flat[p]]
    assert [(pair["true"], pair["predicted"], pair["pictures"]) for pair in confused_pairs(found)] == expected


def test_many_classes_take_no_memory_of_their_square(tmp_path, monkeypatch):
    classes, images = 5_000, 2_000
    random = np.random.default_rng(0)
    labels = random.integers(0, classes, images)
    predicted = np.where(random.random(images) < 0.5, labels, random.integers(0, classes, images))
    batch = Ranked(predicted, random.random(images), np.where(predicted == labels, 0, 3))
    tracemalloc.start()
    try:
        found = Predictions.of_batches([""] * images, labels, [batch], classes).check()
        rows, pairs = per_class(found), confused_pairs(found)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 50e6  # the square would be 200 MB
    assert len(rows) == classes
    assert len(pairs) == 20
    assert found.accuracy(5) == 1
    monkeypatch.setattr(evaluation_report, "confusion_matrix", None)
    evaluation_report.draw_confusion(found, tmp_path / "confusion.png")


@pytest.mark.parametrize("classes", [1, 3, 2000])
def test_logits_give_what_their_probabilities_give(classes):
    random = np.random.default_rng(0)
    logits, labels = random.normal(0, 4, (300, classes)).astype(np.float32), random.integers(0, classes, 300)
    for got, expected in zip(ranked(logits, labels, are_logits=True), ranked(softmax(logits), labels)):
        assert (got == expected).all()


def test_a_batch_is_let_go(tmp_path):
    """Of a batch of 1000 images and 2000 classes, 8 MB, less than a hundredth is kept."""
    probabilities = np.random.default_rng(0).random((1000, 2000), np.float32)
    kept = ranked(probabilities, np.zeros(1000, np.int64))
    assert all(part.base is None for part in kept)
    assert sum(part.nbytes for part in kept) < probabilities.nbytes / 100
