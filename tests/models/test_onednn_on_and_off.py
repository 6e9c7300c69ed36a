"""Every layer of every registered model: the same with oneDNN as by Paddle's own operations, on the maps it sees.

Layer by layer, because a whole net in train mode magnifies rounding by orders of magnitude.
"""

from __future__ import annotations

import paddle
import pytest

import ppcls_ext
from ppcls_ext.layers.fasternet_block import PartialConv
from ppcls_ext.layers.squeeze_excite import SqueezeExcite
from ppcls_ext.models.fasternet import MLP, FasterNetBlock
from ppcls_ext.onednn import find
from ppcls_ext.reparam.reparameterizable import Reparameterizable

SEEN: set[tuple] = set()  # layers and maps that another model had too
LARGE = ("RepVGG_B", "RepVGG_D", "FasterNet_M", "FasterNet_L", "MobileOne_S4")
NAMES = [
    pytest.param(name, marks=pytest.mark.slow) if name.startswith(LARGE) else name for name in ppcls_ext.list_models()
]


def run(layer, x, training, edge=None):
    """Output and gradients of the input and the parameters; running statistics are put back.

    Also returns `edge`, where the output is so near a ReLU's edge that rounding may decide on which side: no gradient
    enters there.
    """
    kept = [(value, value.clone()) for _, value in layer.named_buffers()]
    layer.train() if training else layer.eval()
    x = x.clone().detach()
    x.stop_gradient = not training
    paddle.seed(5)  # of stochastic depth
    with paddle.set_grad_enabled(training):
        y = layer(x)
    results = {"output": y.detach().contiguous()}
    edge = y.detach().abs() <= 1e-3 if edge is None else edge
    if training:
        paddle.seed(7)
        weights = paddle.where(edge, paddle.zeros(y.shape), paddle.randn(y.shape))
        (y * weights).sum().backward()
        results["input gradient"] = x.grad
        results.update({name: value.grad for name, value in layer.named_parameters() if value.grad is not None})
        results.update({f"running {name}": value.clone() for name, value in layer.named_buffers()})
        layer.clear_gradients()
    for value, before in kept:
        value.set_value(before)
    return results, edge


def check(layer, x, monkeypatch):
    for training in (True, False):
        with monkeypatch.context() as patch:
            patch.setenv(find.VARIABLE, "0")
            find._search.cache_clear()
            expected, edge = run(layer, x, training)
        find._search.cache_clear()
        got, _ = run(layer, x, training, edge)
        scale = max([float(value.abs().max()) for name, value in expected.items() if name.endswith("weight")] + [0.0])
        assert got.keys() == expected.keys()
        for name, value in expected.items():
            # a gradient that is zero but for rounding has no relative error
            largest = max(float(value.abs().max()), 1e-2 * scale if training else 0.0)
            assert float((got[name] - value).abs().max()) <= 2e-5 * largest, (type(layer), name, training)


@pytest.mark.skipif(find.library() is None, reason="this Paddle has no oneDNN that can be called")
@pytest.mark.parametrize("name", NAMES)
def test_every_layer_is_the_same(name, monkeypatch):
    paddle.seed(0)
    model = ppcls_ext.build(name, class_num=4)
    model.train()
    found = []

    def look(layer, inputs):
        shapes = tuple(tuple(value.shape) for value in layer.parameters())
        key = (type(layer).__name__, getattr(layer, "stride", 1), tuple(inputs[0].shape), shapes)
        if key not in SEEN:
            SEEN.add(key)
            found.append((layer, inputs[0].detach().clone()))

    hooks = [
        layer.register_forward_pre_hook(look)
        for layer in model.sublayers()
        if isinstance(layer, (Reparameterizable, PartialConv, SqueezeExcite, MLP, FasterNetBlock))
    ]
    paddle.seed(1)
    with paddle.no_grad():
        model(paddle.randn([3, 3, 64, 96]))
    for hook in hooks:
        hook.remove()
    assert found or SEEN
    for layer, x in found:
        check(layer, x, monkeypatch)
