"""How far the outputs of two forms of a model are apart: maps, class indices, lists of detections."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ppcls_ext.errors import PpclsExtError

#: Share of the pixels of an index map that may differ: where two classes score the same but for rounding.
TIES = 1e-3


def largest_difference(got: Sequence[np.ndarray], expected: Sequence[np.ndarray]) -> float:
    """The largest difference of any output, as a part of that output's largest value; nan where a value is nan.

    Raises:
        PpclsExtError: number or shapes of the outputs differ.
    """
    shapes = [[tuple(values.shape) for values in outputs] for outputs in (got, expected)]
    if shapes[0] != shapes[1]:
        raise PpclsExtError(f"the outputs' shapes differ: {shapes[0]}, expected {shapes[1]}; nothing was written")
    return float(np.max([_difference(*pair) for pair in zip(got, expected)]))


def _difference(got: np.ndarray, expected: np.ndarray) -> float:
    if expected.size == 0:
        return 0.0
    if np.issubdtype(expected.dtype, np.integer) and expected.ndim > 1:
        share = float((got != expected).mean())
        return 0.0 if share <= TIES else share
    got, expected = got.astype(np.float64), expected.astype(np.float64)
    return float(np.abs(got - expected).max() / max(np.abs(expected).max(), np.finfo(np.float32).tiny))
