"""Convolutions of maps so small that each output sees each input, as one product."""

from __future__ import annotations

import itertools

import paddle
import pytest
from paddle.nn import functional

from ppcls_ext.onednn import find, products
from ppcls_ext.onednn.builders import Geometry
from tests.helpers import relative
from tests.onednn.three_results import compute, in_double

pytestmark = pytest.mark.skipif(find.library() is None, reason="this Paddle has no oneDNN that can be called")

# H, W, k, stride, padding
SEEN = [
    (2, 2, 3, 1, 1),
    (2, 2, 3, 2, 1),
    (1, 1, 3, 1, 1),
    (1, 2, 3, 1, 1),
    (2, 1, 3, 2, 1),
    (3, 2, 5, 1, 2),
    (2, 2, 2, 2, 0),
]


def random(height, width, size, stride, padding, batch=products.FEWEST + 1, channels=6, outputs=5):
    paddle.seed(0)
    geometry = Geometry(stride, padding)
    x, kernel = paddle.randn([batch, height, width, channels]), paddle.randn([outputs, channels, size, size])
    return x, kernel, paddle.randn(geometry.output_shape(x.shape, kernel.shape)), geometry


@pytest.mark.parametrize("sizes", SEEN)
@pytest.mark.parametrize("way", ["product", "convolution"])
def test_equal_to_double_precision(monkeypatch, sizes, way):
    x, kernel, grad, geometry = random(*sizes)
    assert products.sees_all(x.shape, kernel.shape, geometry)
    if way == "convolution":
        monkeypatch.setattr(products, "sees_all", lambda *_: False)
    tensors = x, kernel, grad, geometry
    for got, expected in zip(compute(*tensors), in_double(*tensors)):
        assert relative(got, expected) <= 1e-6


@pytest.mark.parametrize("sizes", SEEN)
@pytest.mark.parametrize("batch", [products.FEWEST_OF_GRADIENT - 1, products.FEWEST_OF_GRADIENT, products.FEWEST - 1])
def test_few_images(monkeypatch, sizes, batch):
    *tensors, geometry = random(*sizes, batch=batch)
    unfolded = []
    original = products.unfolded_kernel_gradient
    monkeypatch.setattr(products, "unfolded_kernel_gradient", lambda *given: unfolded.append(1) or original(*given))
    for got, expected in zip(compute(*tensors, geometry), in_double(*tensors, geometry)):
        assert relative(got, expected) <= 1e-6
    assert len(unfolded) == (batch >= products.FEWEST_OF_GRADIENT)


@pytest.mark.parametrize(("size", "stride"), itertools.product([2, 3, 5], [1, 2, 3]))
def test_when_every_output_sees_every_input(size, stride):
    for height, width, padding in itertools.product(range(1, 6), range(1, 6), range(size // 2 + 1)):
        if min(height, width) + 2 * padding < size:
            continue
        x, kernel, grad, geometry = random(height, width, size, stride, padding, channels=1, outputs=1)
        ones = paddle.ones([1, height * width, height, width])
        ones.stop_gradient = False
        functional.conv2d(ones[:, :1], paddle.ones([1, 1, size, size]), None, stride, padding).sum().backward()
        # an input that all outputs see gets as many ones as there are outputs
        all_seen = float(ones.grad[0, 0].min()) == grad.shape[1] * grad.shape[2]
        assert products.sees_all(x.shape, kernel.shape, geometry) == all_seen


def test_others_are_left_to_the_convolution():
    x, kernel, _, geometry = random(2, 2, 3, 1, 1)
    shape = tuple(x.shape)
    assert products.sees_all(shape, kernel.shape, geometry)
    assert not products.sees_all((products.FEWEST - 1, *shape[1:]), kernel.shape, geometry)
    assert not products.sees_all(shape, (6, 3, 3, 3), Geometry(1, 1, 2))
    assert not products.sees_all(shape, (5, 6, 1, 1), Geometry())
