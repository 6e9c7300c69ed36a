"""The two pointwise convolutions of FasterNet with what is between them, as one operation, against their definition."""

from __future__ import annotations

import copy

import paddle
import pytest
from paddle import nn

from ppcls_ext.layers import fasternet_block
from ppcls_ext.layers.fasternet_block import GELU
from ppcls_ext.models.fasternet import MLP
from ppcls_ext.onednn import find

pytestmark = pytest.mark.skipif(find.library() is None, reason="this Paddle has no oneDNN that can be called")


def make(activation=GELU, channels=12):
    paddle.seed(0)
    layer = MLP(channels, activation, fused=False)
    norm = layer._sub_layers["1"]
    norm.weight.set_value(paddle.rand(norm.weight.shape) + 0.5)
    norm.bias.set_value(paddle.randn(norm.bias.shape))
    layer.train()
    return layer


def run(layer, x):
    x = x.clone().detach()
    x.stop_gradient = False
    y = layer(x)
    paddle.seed(3)
    (y * paddle.randn(y.shape).astype(y.dtype)).sum().backward()
    results = {"y": y, "x": x.grad}
    for name, value in layer.named_parameters():
        results[name] = value.grad if value.trainable else value.clone()  # the running statistics get no gradient
    return results


@pytest.fixture
def used(monkeypatch):
    """How often the operation ran."""
    calls = []
    real = fasternet_block.ExpandProject.forward
    monkeypatch.setattr(
        fasternet_block.ExpandProject, "forward", lambda self, *inputs: (calls.append(1), real(self, *inputs))[1]
    )
    return calls


@pytest.mark.parametrize("activation", [GELU, nn.ReLU])
@pytest.mark.parametrize("shape", [[2, 12, 5, 7], [1, 12, 3, 3], [3, 12, 40, 31]])
def test_equals_the_definition_in_float64(activation, shape, used):
    layer = make(activation)
    plain = copy.deepcopy(layer).to(dtype="float64")
    paddle.seed(1)
    x = paddle.randn(shape)
    got = run(layer, x)
    assert used == [1]
    expected = run(plain, x.astype("float64"))
    assert used == [1]
    for name, value in expected.items():
        scale = max(float(value.abs().max()), 1e-3)
        assert float((got[name].astype("float64") - value).abs().max()) <= 3e-5 * scale, name


def test_it_keeps_no_map_between_the_convolutions():
    layer = make()
    x = paddle.randn([2, 12, 8, 8])
    conv, norm, project = (layer._sub_layers[name] for name in "013")
    operation = fasternet_block.ExpandProject(norm, fasternet_block.builders.GELU)
    _, saved = operation.forward(x, conv.weight, norm.weight, norm.bias, project.weight)
    assert sum(value.size for value in saved if value.ndim == 4) == x.size + 2 * x.size


@pytest.mark.parametrize("frozen", ["0.weight", "1.weight", "1.bias", "3.weight", "input"])
def test_what_needs_no_gradient_gets_none(frozen):
    layer, x = make(), paddle.randn([2, 12, 8, 8])
    expected = run(copy.deepcopy(layer), x)
    parameters = dict(layer.named_parameters())
    if frozen != "input":
        parameters[frozen].stop_gradient = True
    x.stop_gradient = frozen == "input"
    y = layer(x)
    paddle.seed(3)
    (y * paddle.randn(y.shape)).sum().backward()
    for name, value in {"x": x, **parameters}.items():
        if value.stop_gradient:
            assert value.grad is None
        elif name in ("x", "0.weight", "1.weight", "1.bias", "3.weight"):
            assert float((value.grad - expected[name]).abs().max()) == 0, name


@pytest.mark.parametrize("name", ["0", "1", "2", "3"])
def test_a_watched_layer_is_called(name, used):
    layer, x, seen = make(), paddle.randn([2, 12, 8, 8]), []
    expected = run(copy.deepcopy(layer), x)
    assert used.pop() == 1
    layer._sub_layers[name].register_forward_post_hook(lambda layer, inputs, output: seen.append(output))
    got = run(layer, x)
    assert (used, len(seen)) == ([], 1)
    for key, value in expected.items():
        assert float((got[key] - value).abs().max()) <= 2e-5 * max(float(value.abs().max()), 1e-3), key


def test_other_forms_take_their_own_path(used):
    layer, x = make(), paddle.randn([2, 12, 8, 8])
    swapped = copy.deepcopy(layer)
    swapped._sub_layers["2"] = nn.Silu()
    swapped(x)
    layer.eval()
    with paddle.no_grad():
        layer(x)
    MLP(12, GELU, fused=True)(x)
    assert used == []
