"""Statistics of channels against float64, where one long float32 sum loses digits."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from ppcls_ext.onednn import find, operations
from ppcls_ext.onednn.operations import WIDE
from ppcls_ext.onednn.statistics import ADDENDS, LONGEST, PIECE, channel_sums, mean_and_variance

pytestmark = pytest.mark.skipif(find.library() is None, reason="this Paddle has no oneDNN that can be called")
EPSILON = 1e-5
# whole pieces, a last smaller one, numbers with few divisors, one pixel more than one sum takes, many channels
SHAPES = [(4, 64, 64, 20), (3, 41, 43, 5), (1, 1, LONGEST + 7, 16), (2, 1, PIECE - 1, 3), (1, 1, 13 * 79, 2)]
SHAPES += [(3, 5, 7, WIDE), (1, 1, ADDENDS * ADDENDS + 1, 2), (2, 1, 1, 3)]


def make_map(shape) -> np.ndarray:
    """Channels of means up to a hundred deviations; the first is constant, as dead units behind a border are."""
    random = np.random.default_rng(0)
    x = random.standard_normal(shape) + random.uniform(-100, 100, shape[3])
    x[..., 0] = 0.6194308
    return x.astype(np.float32)


@pytest.mark.parametrize("shape", SHAPES)
def test_mean_and_variance(shape):
    x = make_map(shape)
    mean, variance = (value.numpy() for value in mean_and_variance(paddle.to_tensor(x)))
    rows = x.reshape(-1, shape[3]).astype(np.float64)
    assert (np.abs(mean - rows.mean(0)) / (np.abs(rows.mean(0)) + rows.std(0))).max() < 5e-7
    assert np.abs(variance - rows.var(0)).max() < 1e-6


@pytest.mark.parametrize("shape", SHAPES)
def test_normalise(shape):
    x = make_map(shape)
    gamma, beta = (np.random.RandomState(seed).rand(shape[3]).astype(np.float32) for seed in (1, 2))
    y, _, _ = operations.normalise(*map(paddle.to_tensor, (x, gamma, beta)), EPSILON)
    rows = x.reshape(-1, shape[3]).astype(np.float64)
    expected = (rows - rows.mean(0)) / np.sqrt(rows.var(0) + EPSILON) * gamma + beta
    assert np.abs(y.numpy().reshape(rows.shape) - expected).max() < 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize("shape", [*SHAPES, (2, 3, 5, 7)])
def test_channel_sums(shape):
    x = make_map(shape)
    rows = x.reshape(-1, shape[3]).astype(np.float64)
    mean = channel_sums(paddle.to_tensor(x)).numpy() / len(rows)
    assert (np.abs(mean - rows.mean(0)) / (np.abs(rows.mean(0)) + rows.std(0))).max() < 1e-6
