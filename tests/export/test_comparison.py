"""ppcls_ext.export.comparison: outputs of every kind, and no more allowance than rounding needs."""

from __future__ import annotations

import numpy as np
import pytest

from ppcls_ext.errors import PpclsExtError
from ppcls_ext.export.comparison import output_difference, require_same
from ppcls_ext.export.program import score_outputs


def test_differences():
    a = [np.float32([[1, 2], [3, 4]]), np.int64([[0, 1], [2, 3]])]
    assert output_difference(a, a) == 0
    assert output_difference([a[0] + 1, a[1]], a) == pytest.approx(0.25)
    assert output_difference([np.ones(1)], [np.float32(2)]) == 0.5
    assert output_difference([a[0], a[1] * 0], a) == 0.75  # indices: the share that differs
    assert np.isnan(output_difference([a[0] * np.nan, a[1]], a))
    with pytest.raises(PpclsExtError, match="shapes differ"):
        output_difference([a[0][:1], a[1]], a)
    with pytest.raises(PpclsExtError, match="shapes differ"):
        output_difference(a[:1], a)


def test_differences_of_detections():
    rows = np.float32([[0, 0.9, 1, 2, 30, 40], [2, 0.9, 5, 5, 90, 100], [1, 0.2, 0, 0, 9, 9]])
    assert output_difference([rows[[1, 0, 2]]], [rows]) == 0
    for column, change, expected in ((0, 1, 1), (1, 0.01, 0.01), (4, 1, 0.01)):
        other = rows.copy()
        other[0, column] += change
        assert output_difference([other], [rows]) == pytest.approx(expected, rel=1e-4)
    doubled = rows[[0, 0, 2]]  # a row instead of another
    assert output_difference([doubled], [rows]) > 0.1
    assert np.isnan(output_difference([rows * np.nan], [rows]))
    many = np.arange(600, dtype=np.float32).reshape(100, 6)
    few_others, many_others = many.copy(), many.copy()
    few_others[:4, 2:] += 1000
    many_others[:6, 2:] += 1000
    assert output_difference([few_others], [many]) == 0
    assert output_difference([many_others], [many]) > 0.5


def detections(seed: int = 0) -> np.ndarray:
    """Lists of 100 rows of 50 classes, two rows each."""
    random = np.random.default_rng(seed)
    corners = random.uniform(0, 300, (100, 2))
    columns = [np.arange(100) % 50, random.uniform(0.1, 0.9, 100), *corners.T, *(corners + 20).T]
    return np.stack(columns, axis=1).astype(np.float32)


def test_rounding_may_keep_a_box_more():
    rows = detections()
    got, expected = [rows[:97], np.int32([97])], [rows, np.int32([100])]
    assert output_difference(got, expected) == pytest.approx(output_difference(got[:1], expected[:1]))
    assert output_difference([rows, np.int32([99])], expected) > 0, "a number that is not that of the rows"
    with pytest.raises(PpclsExtError, match="the outputs' shapes differ"):
        output_difference([rows[:94]], [rows])
    with pytest.raises(PpclsExtError, match="the outputs' shapes differ"):
        output_difference([rows[:97, :5]], [rows[:, :5]])


@pytest.mark.parametrize(("rows", "score", "counts"), [(100, 1.0, False), (100, 0.9, True), (20, 1.0, True)])
def test_rounding_chooses_the_rows_of_a_long_list_that_all_score_1(rows, score, counts):
    got, expected = detections(0)[:rows], detections(1)[:rows]
    got[:, 1] = expected[:, 1] = score
    assert (output_difference([got], [expected]) > 0.01) == counts
    got[0] = [99, score, 0, 0, 1, 1]  # a class that only one list has, not at its end
    got[1:, 1] = expected[:, 1] = score - 0.1
    assert output_difference([got], [expected]) > 0.05


def test_scores_of_sigmoids_are_compared_as_they_are():
    """Small ones that differ by onnxruntime's rounding are the same; a root of them is compared by its square."""
    from onnx import helper, numpy_helper

    nodes = [
        helper.make_node("Sigmoid", ["x"], ["s"]),
        helper.make_node("Mul", ["s", "s"], ["ss"]),
        helper.make_node("Add", ["ss", "tiny"], ["a"]),
        helper.make_node("Sqrt", ["a"], ["root"]),
        helper.make_node("Mul", ["s", "x"], ["silu"]),
        helper.make_node("Mul", ["s", "large"], ["scaled"]),
    ]
    outputs = [helper.make_tensor_value_info(name, 1, [2]) for name in ("s", "root", "silu", "scaled")]
    numbers = [numpy_helper.from_array(np.float32(value), name) for name, value in (("tiny", 1e-9), ("large", 9.0))]
    graph = helper.make_graph(nodes, "g", [helper.make_tensor_value_info("x", 1, [2])], outputs, numbers)
    scores = score_outputs(helper.make_model(graph))
    assert scores == {0: 1, 1: 2}
    expected = [np.float32([1e-4, 2e-4])] * 2 + [np.float32([1, 2])] * 2
    shifted = [expected[0] + 1e-5, np.sqrt(expected[1] ** 2 + 1e-8), *expected[2:]]
    assert output_difference(shifted, expected) > 0.04
    assert output_difference(shifted, expected, scores) < 2e-5
    assert output_difference([expected[0] + 0.01, *expected[1:]], expected, scores) > 9e-3


def test_a_class_of_few_rows_counts():
    """One class in fifty scored otherwise, or lost, is a fault; a box chosen instead of an equal one is none."""
    rows = detections()
    of_class = rows[:, 0] == 7
    scored, lost, chosen = rows.copy(), rows.copy(), rows.copy()
    scored[of_class, 1] += 0.05
    lost[of_class, 0] = 8
    lost[of_class, 1] = rows[:, 1].min()
    worse = np.flatnonzero(of_class)[rows[of_class, 1].argmin()]
    chosen[worse, 2:] += 5
    assert output_difference([scored], [rows]) == pytest.approx(0.05, rel=1e-3)
    assert output_difference([lost], [rows]) == output_difference([rows], [lost]) > 0.05
    assert output_difference([chosen], [rows]) == 0


def test_a_class_that_the_end_of_the_list_cuts_off_is_none():
    rows = detections()
    last = rows[:, 1].argmin()
    rows[last, 0] = 60
    other = rows.copy()
    other[last, 0] = 61
    assert output_difference([other], [rows]) == 0


def test_rounding_is_allowed_for_and_no_more():
    inputs = {"x": np.ones((1, 3, 4, 4), np.float32), "scale_factor": np.ones((1, 2), np.float32)}

    def magnifies(given):  # a change of 1e-6 moves the outputs by about 1e-3
        return [np.float32([1 + 1e3 * (given["x"].astype("float64") - 1).max()]), given["scale_factor"]]

    near = [magnifies(inputs)[0] + np.float32(5e-4), inputs["scale_factor"]]
    assert require_same("forms", near, magnifies, inputs) == pytest.approx(5e-4, rel=1e-3)
    with pytest.raises(PpclsExtError, match="forms differ by"):
        require_same("forms", [near[0] + 0.1, near[1]], magnifies, inputs)
    with pytest.raises(PpclsExtError, match="forms differ by"):
        require_same("forms", [inputs["x"] + 5e-4], lambda given: [given["x"]], inputs)
    with pytest.raises(PpclsExtError, match="differ by nan"):
        require_same("forms", [inputs["x"] * np.nan], lambda given: [given["x"]], inputs)


@pytest.mark.parametrize(
    ("length", "others", "counts"), [(100, 5, False), (100, 6, True), (20, 1, False), (19, 1, True)]
)
def test_one_row_in_twenty_may_be_another(length, others, counts):
    rows = detections()[:length]
    got = rows.copy()
    got[-others:, 2:] += 50
    got[-others:, 1] = rows[-others:, 1]
    assert (output_difference([got], [rows]) > 1e-3) == counts
