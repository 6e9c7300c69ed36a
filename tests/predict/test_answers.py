"""ppcls_ext.predict.answers: scores, thresholds, and the classes of a result."""

from __future__ import annotations

import dataclasses
import time

import numpy as np
import pytest

from ppcls_ext.data.image_rule import Preprocessing
from ppcls_ext.errors import PpclsExtError
from ppcls_ext.predict.answers import Choice, scores_from, sigmoid, softmax, thresholds_of
from ppcls_ext.predict.metadata import Metadata

SINGLE = Metadata("FasterNet_T0", Preprocessing(), ("cat", "dog", "", "7"))
MULTI = dataclasses.replace(SINGLE, task="multi-label")
LEARNT = dataclasses.replace(MULTI, thresholds=(0.9, 0.2, 0.5, 0.3))
SCORES = np.array([0.8, 0.25, 0.5, 0.3], np.float32)


def test_scores_of_a_multi_label_network_are_sigmoids_each_by_itself():
    logits = np.array([[0, 1, -2, 20], [1000, -1000, -90, 90]], np.float32)
    with np.errstate(all="raise", under="ignore"):
        found = sigmoid(logits)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found[0], 1 / (1 + np.exp(-logits[0].astype(np.float64))), rtol=1e-6)
    assert found[1].tolist() == [1, 0, pytest.approx(8.2e-40, rel=0.1), 1]
    np.testing.assert_array_equal(scores_from(logits, "multi-label"), found)
    np.testing.assert_array_equal(scores_from(logits, "single-label"), softmax(logits))


@pytest.mark.parametrize(
    ("metadata", "topk", "threshold", "expected"),
    [
        (SINGLE, None, None, [0, 2, 3, 1]),
        (SINGLE, 2, None, [0, 2]),
        (SINGLE, None, 0.5, [0, 2]),
        (SINGLE, 1, 0.3, [0]),
        (SINGLE, None, 0.81, []),
        (MULTI, None, None, [0, 2]),
        (MULTI, 1, None, [0]),
        (MULTI, 9, None, [0, 2]),
        (MULTI, None, 0, [0, 2, 3, 1]),
        (MULTI, None, 1, []),
        (LEARNT, None, None, [2, 3, 1]),
        (LEARNT, None, 0.6, [0]),
        (LEARNT, None, {"cat": 0.7}, [0, 2, 3, 1]),
        (LEARNT, None, {"cat": 0.7, None: 0.26}, [0, 2, 3]),
        (LEARNT, None, {1: 0.26, "3": 0.25}, [2, 3]),  # no class is called 3
        (LEARNT, None, {"7": 0.25}, [2, 3, 1]),
        (LEARNT, None, [0, 1, 1, 0], [0, 3]),
        (LEARNT, None, np.array([0, 1, 1, 0], np.float32), [0, 3]),
    ],
)
def test_the_classes_of_a_result(metadata, topk, threshold, expected):
    result = Choice(metadata, topk, threshold)(SCORES)
    assert result["class_ids"] == expected
    assert result["scores"] == [round(float(SCORES[index]), 5) for index in expected]
    assert result["label_names"] == [SINGLE.class_names[index] for index in expected]


def test_a_single_label_result_has_five_classes_by_default():
    scores = np.linspace(0, 1, 9, dtype=np.float32)
    unnamed = dataclasses.replace(SINGLE, class_names=None)
    assert Choice(unnamed)(scores) == {
        "class_ids": [8, 7, 6, 5, 4],
        "scores": [1.0, 0.875, 0.75, 0.625, 0.5],
        "label_names": [],
    }


def test_a_score_on_the_threshold_shows_the_class():
    """Thresholds that a training chose among float32 scores are kept as text."""
    score = np.float32(1) / np.float32(3)
    learnt = dataclasses.replace(MULTI, class_names=None, thresholds=(float(score), 0.5))
    learnt = Metadata.from_properties(learnt.to_properties())
    assert Choice(learnt)(np.array([score, 0.5], np.float32))["class_ids"] == [1, 0]


@pytest.mark.parametrize("value", [-0.1, 1.1, float("nan"), "0.5", True])
@pytest.mark.parametrize("form", [lambda value: value, lambda value: {"cat": value}, lambda value: [value] * 4])
def test_thresholds_out_of_range(form, value):
    threshold = form(value)
    with pytest.raises(PpclsExtError, match=r"threshold is .*: expected a number from 0 to 1"):
        Choice(MULTI, threshold=threshold)


@pytest.mark.parametrize("name", ["bird", "", -1, 1.5, True, "99999999"])
def test_classes_that_do_not_exist(name):
    with pytest.raises(PpclsExtError, match=r"threshold is for .*: expected a class's number or name"):
        Choice(MULTI, threshold={name: 0.5})
    with pytest.raises(PpclsExtError, match="no class 4: the network has the classes 0 to 3"):
        Choice(MULTI, threshold={4: 0.5})(SCORES)
    twice = dataclasses.replace(MULTI, class_names=("cat", "cat"))
    with pytest.raises(PpclsExtError, match="'cat', the name of 2 classes: expected a class's number"):
        Choice(twice, threshold={"cat": 0.5})


def test_as_many_thresholds_as_classes():
    for metadata, threshold in ((LEARNT, None), (MULTI, [0.5] * 4), (LEARNT, {"cat": 0.5})):
        with pytest.raises(PpclsExtError, match="4 thresholds for a network of 3 classes"):
            Choice(metadata, threshold=threshold)(SCORES[:3])
    assert thresholds_of(LEARNT, 4).tolist() == list(LEARNT.thresholds)
    assert thresholds_of(MULTI, 3).tolist() == [0.5] * 3


@pytest.mark.parametrize("topk", [0, -1, 1.5, True, "3"])
def test_wrong_topk(topk):
    with pytest.raises(PpclsExtError, match="topk is"):
        Choice(MULTI, topk)


@pytest.mark.parametrize("topk", [1, 5, 49, 50, 99])
@pytest.mark.parametrize("levels", [2, 7, 10_000])
def test_the_best_are_those_of_sorting_everything(topk, levels):
    scores = (np.random.default_rng(levels).integers(0, levels, 50) / levels).astype(np.float32)
    order = scores.argsort(kind="stable")[::-1]
    assert Choice(SINGLE, topk)(scores)["class_ids"] == order[:topk].tolist()
    assert Choice(SINGLE, topk, 0.5)(scores)["class_ids"] == order[scores[order] >= 0.5][:topk].tolist()


def test_many_classes_with_a_threshold_each_take_linear_time():
    names = tuple(f"class number {index}" for index in range(200_000))
    many = dataclasses.replace(MULTI, class_names=names)
    start = time.process_time()
    choose = Choice(many, threshold=dict.fromkeys(names, 0.25))
    for _ in range(20):
        choose(np.zeros(len(names), np.float32))
    assert time.process_time() - start < 60
