"""How far the outputs of two forms of a model are apart: maps, class indices, lists of detections."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

import numpy as np

from ppcls_ext.errors import PpclsExtError
from ppcls_ext.export.comparison import NOISE_FACTOR, NUDGE, TOLERANCE, require_small

#: Share of the pixels of an index map that may differ: where two classes score the same but for rounding.
TIES = 1e-3
#: Columns of PaddleDetection's lists: class, score, left, top, right, bottom.
DETECTION = 6
#: Share of the rows of a list that must have a partner in the other; of up to 20 rows all.
ROWS = 0.95
#: From 1, of the scores of a list that more boxes of score 1 claim than it holds.
SATURATED = 1e-6
TINY = float(np.finfo(np.float32).tiny)
NO_SCORES: Mapping[int, int] = MappingProxyType({})


def largest_difference(
    got: Sequence[np.ndarray], expected: Sequence[np.ndarray], scores: Mapping[int, int] = NO_SCORES
) -> float:
    """The largest difference of any output, as a part of that output's largest value; nan where a value is nan.

    Args:
        got: one form's outputs.
        expected: the other form's.
        scores: outputs between 0 and 1, compared as they are once raised to a power: number → power.

    Raises:
        PpclsExtError: number or shapes of the outputs differ.
    """
    # ONNX files have 1-element outputs where Paddle has 0-D ones
    got, expected = ([np.atleast_1d(values) for values in outputs] for outputs in (got, expected))
    shapes = [[tuple(values.shape) for values in outputs] for outputs in (got, expected)]
    if shapes[0] != shapes[1]:
        raise PpclsExtError(f"the outputs' shapes differ: {shapes[0]}, expected {shapes[1]}; nothing was written")
    return float(np.max([_difference(*pair, scores.get(number, 0)) for number, pair in enumerate(zip(got, expected))]))


def require_same(
    what: str,
    got: Sequence[np.ndarray],
    run: Callable[[Mapping[str, np.ndarray]], Sequence[np.ndarray]],
    inputs: Mapping,
    scores: Mapping[int, int] = NO_SCORES,
) -> float:
    """Raises where `got` differs from `run(inputs)` by more than rounding explains; gives the largest difference.

    Args:
        what: the two forms, for the error.
        got: one form's outputs.
        run: the other form.
        inputs: by name; those of four axes are pictures.
        scores: outputs between 0 and 1, compared as they are once raised to a power: number → power.

    Raises:
        PpclsExtError: they differ.
    """
    expected = run(inputs)
    difference = largest_difference(got, expected, scores)
    allowed = TOLERANCE
    if not difference <= allowed:
        # pictures that a model was not trained on, levels instead of normalised ones, may magnify rounding errors
        random = np.random.default_rng(1)
        nudged = {
            name: (value * (1 + NUDGE * random.uniform(-1, 1, value.shape))).astype(value.dtype)
            if value.ndim == 4
            else value
            for name, value in inputs.items()
        }
        moved = run(nudged)
        if [values.shape for values in moved] == [values.shape for values in expected]:
            allowed = max(allowed, NOISE_FACTOR * largest_difference(moved, expected, scores))
    require_small(what, difference, allowed)
    return difference


def _difference(got: np.ndarray, expected: np.ndarray, power: int = 0) -> float:
    if expected.size == 0:
        return 0.0
    if np.issubdtype(expected.dtype, np.integer) and expected.ndim > 1:
        share = float((got != expected).mean())
        return 0.0 if share <= TIES else share
    got, expected = got.astype(np.float64), expected.astype(np.float64)
    if expected.ndim == 2 and expected.shape[1] == DETECTION:
        return _difference_of_rows(got, expected)
    if power:
        return float(np.abs(got**power - expected**power).max())
    return float(np.abs(got - expected).max() / max(np.abs(expected).max(), TINY))


def _difference_of_rows(got: np.ndarray, expected: np.ndarray) -> float:
    """Of two lists of detections in any order: the distance from which `ROWS` of the rows have a partner.

    Rounding decides the order of equal scores and which of two equal boxes is kept, mostly on pictures that are none.
    It decides neither the score of a box that both lists hold nor the best score of a class: these always count. Class
    and score are compared as they are, boxes as parts of the largest coordinate.

    On levels that a detector was not trained on every row of a long list may score 1: then rounding chooses all rows.
    """
    scale = np.float64([1, 1, *[max(np.abs(expected[:, 2:]).max(), TINY)] * 4])
    apart = np.abs(got[:, None] - expected[None]) / scale
    distances, scores = apart.max(axis=2), apart[:, :, 1]
    same_box = np.delete(apart, 1, axis=2).max(axis=2) <= TOLERANCE
    others = np.where(same_box, scores, np.inf).min(axis=1)
    chosen = all(len(rows) > 20 and np.abs(rows[:, 1] - 1).max() <= SATURATED for rows in (got, expected))
    return float(
        np.max(
            [
                *(0 if chosen else np.quantile(distances.min(axis=axis), ROWS, method="higher") for axis in (0, 1)),
                others[same_box.any(axis=1)].max(initial=0),
                np.abs(_best_scores(got, expected) - _best_scores(expected, got)).max(),
            ]
        )
    )


def _best_scores(rows: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Of each class in either list; what is below the other list's end counts as that end, where it was cut off."""
    end = max(rows[:, 1].min(), others[:, 1].min())
    kinds = np.union1d(rows[:, 0], others[:, 0])
    return np.array([rows[rows[:, 0] == kind, 1].max(initial=end) for kind in kinds])
