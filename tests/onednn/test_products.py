"""Pointwise convolutions as products of matrices: the same numbers, by whichever way is faster."""

from __future__ import annotations

import paddle
import pytest

from ppcls_ext.onednn import find, operations, products
from ppcls_ext.onednn.builders import Geometry
from tests.helpers import relative
from tests.onednn.three_results import compute, in_double

pytestmark = pytest.mark.skipif(find.library() is None, reason="this Paddle has no oneDNN that can be called")

# N, H, W, C, O; the last has more pixels than a kernel's gradient takes
SHAPES = [(5, 1, 1, 40, 24), (2, 8, 8, 7, 5), (3, 9, 7, 6, 17), (3, 9, 7, 17, 6), (1, 12, 12, 1, 1), (2, 40, 30, 8, 4)]


def random(shape):
    batch, height, width, channels, outputs = shape
    paddle.seed(0)
    x, grad = (paddle.randn([batch, height, width, number]) for number in (channels, outputs))
    return x, paddle.randn([outputs, channels, 1, 1]), grad, Geometry()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("way", ["chosen", "products", "convolutions"])
def test_equal_to_double_precision(monkeypatch, shape, way):
    if way == "products":
        monkeypatch.setattr(products, "has_product_gradient", lambda *_: True)
    elif way == "convolutions":
        monkeypatch.setattr(products, "is_product", lambda *_: False)
    for got, expected in zip(compute(*random(shape)), in_double(*random(shape))):
        assert relative(got, expected) <= 1e-6


@pytest.mark.parametrize(
    "shape", [(1, 1, 1, 1, 7), (4, 1, 1, 1, 5), (2, 4, 4, 1, 33), (1, 1, 1, 16, 5), (2, 3, 3, 5, 1)]
)
def test_products_of_one_summand(shape):
    """Which oneDNN leaves undone with AVX-512: of one channel, one output, one pixel."""
    for got, expected in zip(compute(*random(shape)), in_double(*random(shape))):
        assert relative(got, expected) <= 1e-6


def test_unfolded_products_of_one_summand():
    paddle.seed(0)
    tensors = paddle.randn([40, 1, 1, 1]), paddle.randn([5, 1, 3, 3]), paddle.randn([40, 1, 1, 5]), Geometry(1, 1)
    for got, expected in zip(compute(*tensors), in_double(*tensors)):
        assert relative(got, expected) <= 1e-6


@pytest.mark.parametrize("shape", SHAPES)
def test_reproducible_to_the_bit(shape):
    tensors = random(shape)
    for one, other in zip(compute(*tensors), compute(*tensors)):
        assert bool((one == other).all())


def count(monkeypatch, tensors):
    calls = []
    run = products.run
    with monkeypatch.context() as patch:
        patch.setattr(products, "run", lambda *arguments: calls.append(run(*arguments)) or calls[-1])
        compute(*tensors)
    return sum(calls)


@pytest.mark.parametrize(("shape", "expected"), list(zip(SHAPES, [3, 3, 3, 3, 1, 2])))
def test_where_products_are_taken(monkeypatch, shape, expected):
    assert count(monkeypatch, random(shape)) == expected


@pytest.mark.parametrize(
    ("size", "geometry"), [(3, Geometry(1, 1)), (1, Geometry(2)), (1, Geometry(1, 1)), (1, Geometry(1, 0, 2))]
)
def test_other_convolutions_are_none(size, geometry):
    assert not products.is_product((8, 4, size, size), geometry)
    assert products.is_product((8, 4, 1, 1), Geometry())


@pytest.mark.parametrize("channels", [1, 3, 8, 15, 16, 20])
@pytest.mark.parametrize(("stride", "side"), [(2, 56), (2, 57), (4, 64)])
def test_strided_gradients_stay_in_their_memory(channels, stride, side, walls):
    # oneDNN's own kernel gradient writes 16 numbers a pixel, however few channels there are
    paddle.seed(0)
    geometry, kernel = Geometry(stride), paddle.randn([10, channels, 1, 1])
    x = paddle.randn([2, side, side, channels])
    y = operations.convolve(x, kernel, None, geometry)
    grad = paddle.randn(y.shape)
    got = operations.kernel_gradient(x, grad, kernel.shape, geometry)
    operations.input_gradient(grad, kernel, x.shape, geometry)
    walls.check()
    thin = x[:, ::stride, ::stride].contiguous()
    assert relative(got, operations.kernel_gradient(thin, grad, kernel.shape, Geometry())) <= 1e-5
