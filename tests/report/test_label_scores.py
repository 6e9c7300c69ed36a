"""Metrics of several labels an image, beside scikit-learn's; thresholds, beside a search over all of them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ppcls_ext.errors import PpclsExtError
from ppcls_ext.report.label_scores import (
    LabelScores,
    average_precision,
    choose_thresholds,
    measures,
    per_class,
    sigmoid,
    worst_labels,
)

sklearn = pytest.importorskip("sklearn.metrics")


def scores_of(seed: int, images=40, classes=5, levels=None, rate=0.3) -> LabelScores:
    """Random labels and scores; with `levels`, scores of few values, so that many are equal."""
    rng = np.random.default_rng(seed)
    labels = (rng.random((images, classes)) < rate).astype(int)
    scores = rng.random((images, classes)) * 0.7 + labels * 0.3
    scores = scores if levels is None else np.round(scores * levels) / levels
    return LabelScores([f"{index}.png" for index in range(images)], labels, scores, rng.uniform(0.2, 0.8, classes))


@pytest.mark.parametrize("levels", [None, 1, 3, 10])
@pytest.mark.parametrize("images", [1, 2, 7, 200])
def test_average_precision(images, levels):
    for seed in range(10):
        found = scores_of(seed, images, levels=levels)
        ours = average_precision(found.labels, found.scores)
        for index in range(5):
            labels, scores = found.labels[:, index], found.scores[:, index]
            if labels.any():
                assert ours[index] == pytest.approx(sklearn.average_precision_score(labels, scores), abs=1e-12)
            else:
                assert np.isnan(ours[index])


@pytest.mark.parametrize("rate", [0.0, 0.02, 0.4, 1.0])
@pytest.mark.parametrize("levels", [None, 4])
def test_measures(rate, levels):
    for seed in range(10):
        found = scores_of(seed, rate=rate, levels=levels)
        labels, predicted, ours = found.labels, found.predicted.astype(int), measures(found)
        shown = labels.any(axis=0)
        if shown.any():
            expected = sklearn.average_precision_score(labels[:, shown], found.scores[:, shown], average="macro")
            assert ours["mAP"] == pytest.approx(expected, abs=1e-12)
        else:
            assert np.isnan(ours["mAP"])
        for average in ("micro", "macro"):
            expected = sklearn.f1_score(labels, predicted, average=average, zero_division=0)
            assert ours[f"f1_{average}"] == pytest.approx(expected, abs=1e-12)
        assert ours["hamming_distance"] == pytest.approx(sklearn.hamming_loss(labels, predicted), abs=1e-12)
        assert ours["exact_match"] == pytest.approx(sklearn.accuracy_score(labels, predicted), abs=1e-12)


def test_per_class():
    found = scores_of(3)
    found.labels[:, 1] = 0
    found = found._replace(thresholds=(0.5, 0.5, 0.5, 2.0, 0.0), names=["a", "b", ""])
    rows = per_class(found)
    assert [row["name"] for row in rows] == ["a", "b", "class 2", "class 3", "class 4"]
    for index, row in enumerate(rows):
        labels, predicted = found.labels[:, index], found.predicted[:, index].astype(int)
        assert row["images"] == labels.sum()
        for name, score in (("precision", predicted.any()), ("recall", labels.any()), ("f1", labels.any())):
            expected = getattr(sklearn, f"{name}_score")(labels, predicted, zero_division=0) if score else None
            assert row[name] == (None if expected is None else pytest.approx(expected)), (index, name)
    assert rows[1]["average_precision"] is None
    assert (rows[3]["precision"], rows[3]["recall"]) == (None, 0.0)


@given(st.integers(0, 10**6), st.integers(1, 12), st.sampled_from([None, 1, 4]))
@settings(max_examples=100, deadline=None)
def test_no_threshold_is_better(seed, images, levels):
    found = scores_of(seed, images, 3, levels)
    chosen = choose_thresholds(found.labels, found.scores)
    for index, threshold in enumerate(chosen):
        labels, scores = found.labels[:, index], np.round(found.scores[:, index], 6)
        if not labels.any():
            assert threshold == 0.5
            continue
        assert 0 <= threshold <= 1
        tried = [sklearn.f1_score(labels, scores >= value, zero_division=0) for value in (*scores, *scores + 1e-9)]
        for ours in (scores, found.scores[:, index]):
            assert sklearn.f1_score(labels, ours >= threshold, zero_division=0) >= max(tried) - 1e-12


def test_thresholds_lie_between_scores():
    labels = np.array([[1, 1, 0, 1], [1, 0, 0, 1], [0, 1, 0, 1], [0, 0, 0, 1]])
    scores = np.array([[0.9, 0.8, 0.1, 0.9], [0.7, 0.3, 0.2, 0.8], [0.2, 0.6, 0.3, 0.7], [0.1, 0.5, 0.4, 0.6]])
    assert choose_thresholds(labels, scores) == pytest.approx((0.45, 0.55, 0.5, 0.3))
    neighbours = np.array([[0.500001], [0.5]])
    (threshold,) = choose_thresholds(np.array([[1], [0]]), neighbours)
    assert (neighbours.astype("float32") >= threshold).tolist() == [[True], [False]]
    tiny = np.array([[1e-40], [1e-60]])  # the same to a file in float32
    assert choose_thresholds(np.array([[1], [0]]), tiny) == (0.0,)


def test_sigmoid_of_large_logits():
    with np.errstate(all="raise"):
        scores = sigmoid(np.array([-700, -100, -50, 0, 50, 700], "float32"))
    assert np.all(np.diff(scores[:4]) > 0)
    assert (scores[3], scores[-1]) == (0.5, 1.0)


def test_the_most_confident_wrong_labels():
    labels, scores = np.array([[1, 0], [0, 1], [1, 1]]), np.array([[0.1, 0.95], [0.6, 0.9], [0.9, 0.2]])
    found = LabelScores("abc", labels, scores, (0.5, 0.9))
    assert worst_labels(found, 9) == [(0, 0), (2, 1), (0, 1), (1, 0)]
    assert worst_labels(found, 2) == [(0, 0), (2, 1)]
    assert worst_labels(found._replace(labels=found.predicted), 9) == []


def test_what_does_not_fit():
    found = scores_of(0)
    assert found.check() is found
    for wrong in (found._replace(paths=["a"]), found._replace(labels=found.labels[:, :2])):
        with pytest.raises(PpclsExtError, match="a report needs images with a label and a score of each class"):
            wrong.check()
