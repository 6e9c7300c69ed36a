"""Gradients a step uphill (`Recipe.sam`), against those that are computed there by hand."""

from __future__ import annotations

import math

import numpy as np
import paddle
import pytest
from paddle.nn import functional

import ppcls_ext
from ppcls_ext.training.sharpness import SharpnessAware

RHO = 0.3
FORMS = {
    "MobileOne_S0": {},
    "MobileOne_S0, one conv branch": {"num_conv_branches": 1},
    "MobileOne_S4": {},
    "RepVGG_A0": {},
    "FasterNet_T0": {},
    "RepVGG_A0, fused": {"fused": True},
}


def net(form: str) -> paddle.nn.Layer:
    paddle.seed(0)
    return ppcls_ext.build(form.split(",")[0], class_num=5, **FORMS[form])


def batch() -> tuple[paddle.Tensor, paddle.Tensor]:
    images = np.random.default_rng(0).normal(size=(4, 3, 32, 32)).astype("float32")
    return paddle.to_tensor(images), paddle.arange(4)


def backward(network: paddle.nn.Layer, mixed: bool = False) -> None:
    images, labels = batch()
    paddle.seed(0)  # of stochastic depth
    with ppcls_ext.mixed_precision(mixed):
        loss = functional.cross_entropy(network(images), labels)
    loss.backward()


def gradients(network: paddle.nn.Layer) -> dict[str, np.ndarray]:
    found = {name: weight.grad for name, weight in network.named_parameters()}
    return {name: gradient.numpy().astype("float64") for name, gradient in found.items() if gradient is not None}


def values(network: paddle.nn.Layer) -> dict[str, np.ndarray]:
    return {name: value.numpy().copy() for name, value in network.state_dict().items()}


@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize("form", FORMS)
def test_they_are_those_uphill(form, mixed):
    network, twin = net(form), net(form)
    twin.set_state_dict(network.state_dict())
    before, there = values(network), {}
    backward(network, mixed)
    first, after_one = gradients(network), values(network)

    def uphill() -> None:
        there.update(values(network))
        assert not gradients(network), "the first ones do not stay in the sum"
        backward(network, mixed)

    SharpnessAware(network, RHO).replace_gradients(uphill)
    length = math.sqrt(sum((gradient**2).sum() for gradient in first.values()))
    for name, gradient in first.items():
        np.testing.assert_allclose(there[name] - before[name], RHO / length * gradient, atol=1e-6, err_msg=name)
    twin.set_state_dict(there)
    backward(twin, mixed)
    found, expected = gradients(network), gradients(twin)
    assert set(found) == set(expected)
    for name, gradient in expected.items():
        assert np.array_equal(found[name], gradient), name
    for name, value in values(network).items():
        assert np.array_equal(value, after_one[name]), f"{name}: weights and running statistics are those of the batch"
    momenta = [layer._momentum for layer in network.sublayers() if hasattr(layer, "_momentum")]
    assert all(momentum < 1 for momentum in momenta)


def test_a_gradient_that_says_nowhere_to_go_stays():
    network = net("FasterNet_T0")
    sharpness = SharpnessAware(network, RHO)
    sharpness.replace_gradients(lambda: pytest.fail("no weight has a gradient"))
    backward(network)
    with paddle.no_grad():
        network.parameters()[0].grad.fill_(float("inf"))
    before = values(network)
    sharpness.replace_gradients(lambda: pytest.fail("a step without end"))
    for name, value in values(network).items():
        assert np.array_equal(value, before[name])


def test_what_is_not_trained_stays():
    network = net("RepVGG_A0")
    for weight in network.stage1.parameters():
        weight.stop_gradient = True
    seen = {}

    def there() -> None:
        seen.update(values(network))
        backward(network)

    backward(network)
    before = values(network)
    SharpnessAware(network, RHO).replace_gradients(there)
    moved = {name for name, value in seen.items() if not np.array_equal(value, before[name])}
    assert moved
    assert not [name for name in moved if name.startswith("stage1")]
