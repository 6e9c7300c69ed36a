"""Squeeze-and-excitation computed together against its definition in float64."""

from __future__ import annotations

import copy

import numpy as np
import paddle
import pytest
from paddle import nn

from ppcls_ext.layers.squeeze_excite import SqueezeExcite
from ppcls_ext.onednn import find
from ppcls_ext.onednn.maps import from_channels_last
from tests.helpers import relative

needs_onednn = pytest.mark.skipif(find.library() is None, reason="this Paddle has no oneDNN that can be called")


def definition(layer: SqueezeExcite, x: paddle.Tensor) -> paddle.Tensor:
    reduce, expand = (getattr(layer, name) for name in layer.names)
    gate = nn.functional.sigmoid(expand(nn.functional.relu(reduce(nn.functional.adaptive_avg_pool2d(x, 1)))))
    return x * gate


def results(layer: SqueezeExcite, function, x: paddle.Tensor, grad: np.ndarray) -> dict[str, np.ndarray]:
    x.stop_gradient = False
    y = function(x)
    y.backward(paddle.to_tensor(grad.astype(str(y.numpy().dtype))))
    found = {"output": y.numpy(), "input": x.grad.numpy()}
    return found | {name: value.grad.numpy() for name, value in layer.named_parameters()}


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("shape", [(3, 12, 10, 7), (2, 32, 1, 1), (1, 7, 5, 5)])
def test_equals_its_definition(shape, training):
    paddle.seed(0)
    layer = SqueezeExcite(shape[1], 4, ("reduce", "expand"))
    layer.train() if training else layer.eval()
    exact = copy.deepcopy(layer).to(dtype="float64")
    rows = np.random.default_rng(0).standard_normal([shape[0], *shape[2:], shape[1]])
    grad = np.random.default_rng(1).standard_normal(shape)
    expected = results(
        exact, lambda x: definition(exact, x), from_channels_last(paddle.to_tensor(rows, "float64")).detach(), grad
    )
    got = results(layer, layer, from_channels_last(paddle.to_tensor(rows, "float32")).detach(), grad)
    for name, value in expected.items():
        assert relative(got[name], value) < 1e-5, name


@needs_onednn
@pytest.mark.parametrize("change", ["hook", "another convolution"])
def test_layers_that_were_changed_are_run(change):
    paddle.seed(0)
    layer, seen = SqueezeExcite(6, 3, ("reduce", "expand")), []
    if change == "hook":
        layer.expand.register_forward_post_hook(lambda *_: seen.append(True))
    else:
        layer.reduce = nn.Conv2D(6, 3, 1, bias_attr=False)
    x = from_channels_last(paddle.randn([2, 4, 4, 6]))
    assert relative(layer(x), definition(layer, x)) < 1e-6
    assert change != "hook" or len(seen) == 2


@needs_onednn
def test_a_frozen_part_gets_no_gradient():
    paddle.seed(0)
    layer = SqueezeExcite(6, 3, ("reduce", "expand"))
    layer.reduce.weight.stop_gradient = True
    layer(from_channels_last(paddle.randn([2, 4, 4, 6]))).sum().backward()
    assert layer.reduce.weight.grad is None
    assert layer.expand.weight.grad is not None


def test_paddle_saves_it_as_a_program(tmp_path):
    """Paddle's to_static follows both ways of an `if`, so that a value must be set on each."""
    layer = SqueezeExcite(8, 4, ("reduce", "expand"))
    layer.eval()
    paddle.jit.save(layer, str(tmp_path / "gate"), input_spec=[paddle.static.InputSpec([None, 8, 4, 4], "float32")])
    x = paddle.randn([2, 8, 4, 4])
    assert (paddle.jit.load(str(tmp_path / "gate"))(x) - layer(x)).abs().max() < 1e-6
