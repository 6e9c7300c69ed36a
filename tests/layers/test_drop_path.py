"""Stochastic depth, alone and as part of the sum that it belongs to."""

from __future__ import annotations

import paddle
import pytest

from ppcls_ext.layers.fasternet_block import GELU, DropPath
from ppcls_ext.models.fasternet import FasterNetBlock
from ppcls_ext.onednn import find
from ppcls_ext.onednn.maps import from_channels_last


def test_draws_keep_the_expectation():
    paddle.seed(0)
    layer = DropPath(0.25)
    weights = layer.draw(paddle.ones([4000, 1, 1, 1])).flatten()
    assert {round(value, 4) for value in weights.tolist()} == {0.0, 1.3333}
    assert float(weights.mean()) == pytest.approx(1, abs=0.03)
    layer.eval()
    assert layer.draw(paddle.ones([4, 1, 1, 1])) is None


def run(x, rate, watched=False):
    paddle.seed(0)
    block = FasterNetBlock(16, GELU, rate, fused=False)
    block.train()
    seen = []
    if watched:
        block.drop_path.register_forward_post_hook(lambda layer, inputs, output: seen.append(output))
    x = x.clone().detach()
    x.stop_gradient = False
    paddle.seed(1)
    y = block(from_channels_last(x))  # as the maps inside a net are
    (y * y).sum().backward()
    return [y, x.grad, *(value.grad for value in block.parameters() if value.trainable)], seen


@pytest.mark.skipif(find.library() is None, reason="this Paddle has no oneDNN that can be called")
@pytest.mark.parametrize("rate", [0.0, 0.5])
@pytest.mark.parametrize("shape", [[6, 9, 7, 16], [5, 40, 33, 16]])
def test_a_seed_drops_the_same_images_on_every_path(shape, rate, monkeypatch):
    paddle.seed(2)
    x = paddle.randn(shape)
    got, _ = run(x, rate)
    watched, seen = run(x, rate, watched=True)
    assert len(seen) == 1
    with monkeypatch.context() as patch:
        patch.setenv(find.VARIABLE, "0")
        find._search.cache_clear()
        expected, _ = run(x, rate)
    find._search.cache_clear()
    x = from_channels_last(x)
    dropped = [bool((y == x_).all()) for y, x_ in zip(expected[0], x)]
    assert any(dropped) == (rate > 0)
    assert [bool((y == x_).all()) for y, x_ in zip(got[0], x)] == dropped
    for values in (got, watched):
        for value, other in zip(values, expected):
            assert float((value - other).abs().max()) <= 2e-5 * float(other.abs().max())
