"""ppcls_ext.export.ranges: eight bits where they do most good."""

from __future__ import annotations

import numpy as np
import pytest

from ppcls_ext.export.ranges import Histogram, scale_and_zero


def error(values: np.ndarray, low: float, high: float) -> float:
    scale, zero = scale_and_zero(low, high)
    levels = np.clip(np.rint(values / scale) + zero, 0, 255)
    return float(np.square((levels - zero) * scale - values).mean())


@pytest.mark.parametrize("signed", [False, True])
def test_an_outlier_is_cut_off(signed):
    rng = np.random.default_rng(0)
    values = rng.exponential(1, 100_000).astype(np.float32)
    if signed:
        values *= rng.choice([-1, 1], len(values)).astype(np.float32)
    values[0] = 50
    histogram = Histogram(values.min(), values.max())
    histogram.add(values)
    low, high = histogram.range()
    assert high < 48
    tried = [error(values, low, part * values.max()) for part in np.linspace(0.1, 1, 50)]
    assert error(values, low, high) < 1.02 * min(tried)
    assert (low < -5) if signed else low == 0


@pytest.mark.parametrize(("low", "high"), [(0.0, 0.0), (-1.0, -0.5), (0.5, 2.0), (-3.0, 1.0)])
def test_zero_is_always_exact(low, high):
    histogram = Histogram(low, high)
    histogram.add(np.linspace(low, high, 1000, dtype=np.float32))
    low, high = histogram.range()
    assert low <= 0 <= high
    scale, zero = scale_and_zero(low, high)
    assert scale > 0
    assert 0 <= zero <= 255
