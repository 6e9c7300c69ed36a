"""A block of FasterNet as one operation: when it runs, and what gets a gradient."""

from __future__ import annotations

import copy

import paddle
import pytest

from ppcls_ext.layers import fasternet_block
from ppcls_ext.layers.fasternet_block import GELU
from ppcls_ext.models.fasternet import FasterNetBlock
from ppcls_ext.onednn import find

pytestmark = pytest.mark.skipif(find.library() is None, reason="this Paddle has no oneDNN that can be called")
PARAMETERS = ["spatial_mixing.partial_conv3.weight", "mlp.0.weight", "mlp.1.weight", "mlp.1.bias", "mlp.3.weight"]


def make(rate=0.5):
    paddle.seed(0)
    block = FasterNetBlock(16, GELU, rate, fused=False)
    block.train()
    return block


def run(block, x):
    paddle.seed(1)
    y = block(x)
    paddle.seed(2)
    (y * paddle.randn(y.shape)).sum().backward()
    return {"y": y, "x": x.grad, **{name: value.grad for name, value in block.named_parameters()}}


@pytest.fixture
def used(monkeypatch):
    """How often the operation ran."""
    calls = []
    real = fasternet_block.MixedResidual.forward
    monkeypatch.setattr(
        fasternet_block.MixedResidual, "forward", lambda self, *inputs: (calls.append(1), real(self, *inputs))[1]
    )
    return calls


def picture(seed=3):
    paddle.seed(seed)
    x = paddle.randn([4, 16, 9, 7])
    x.stop_gradient = False
    return x


@pytest.mark.parametrize("rate", [0.0, 0.5])
@pytest.mark.parametrize("frozen", ["x", *PARAMETERS])
def test_what_needs_no_gradient_gets_none(frozen, rate):
    block = make(rate)
    expected = run(copy.deepcopy(block), picture())
    x, parameters = picture(), dict(block.named_parameters())
    {"x": x, **parameters}[frozen].stop_gradient = True
    got = run(block, x)
    for name in ("x", *PARAMETERS):
        if name == frozen:
            assert got[name] is None
        else:
            assert float((got[name] - expected[name]).abs().max()) == 0, name


@pytest.mark.parametrize("watched", ["mlp", "mlp.2", "spatial_mixing", "spatial_mixing.partial_conv3", "drop_path"])
def test_a_watched_layer_is_called(watched, used):
    block, seen = make(), []
    expected = run(copy.deepcopy(block), picture())
    assert used.pop() == 1
    dict(block.named_sublayers())[watched].register_forward_post_hook(lambda layer, inputs, output: seen.append(output))
    got = run(block, picture())
    assert (used, len(seen)) == ([], 1)
    for name in ("y", "x", *PARAMETERS):
        scale = float(expected[name].abs().max())
        assert float((got[name] - expected[name]).abs().max()) <= 2e-5 * scale, name


def test_eval_mode_and_the_fused_form_take_their_own_path(used):
    block = make()
    block.eval()
    with paddle.no_grad():
        block(picture())
    fused = FasterNetBlock(16, GELU, 0.0, fused=True)
    fused.train()
    fused(picture())
    assert used == []


def test_the_input_may_be_used_elsewhere_too():
    block, x = make(0.0), picture()
    alone = run(copy.deepcopy(block), picture())
    paddle.seed(1)
    y = block(x)
    paddle.seed(2)
    ((y * paddle.randn(y.shape)).sum() + 3 * x.sum()).backward()
    assert float((x.grad - alone["x"] - 3).abs().max()) < 1e-5
