"""Mixed precision: each operation, alone and inside of every net, against float64 of the same rounded numbers.

Where the processor has no bfloat16 instructions the operations compute in float32 what they would round, which is what
these tests hold them to in either case.
"""

from __future__ import annotations

import copy
import threading
import warnings

import numpy as np
import paddle
import pytest
from paddle import nn

import ppcls_ext
from ppcls_ext.blocks import MobileOneBlock, RepConv, RepVGGBlock
from ppcls_ext.errors import PpclsExtError
from ppcls_ext.models.table import MODELS
from ppcls_ext.onednn import bfloat16, builders, by_paddle, find, half_convolution, maps, operations
from ppcls_ext.onednn.arena import SMALLEST, empty_map
from ppcls_ext.onednn.builders import Geometry
from ppcls_ext.onednn.library import UnsupportedError
from ppcls_ext.onednn.memory import BFLOAT16
from ppcls_ext.onednn.self_check import bfloat16_fault
from ppcls_ext.onednn.statistics import channel_sums, image_sums

pytestmark = pytest.mark.skipif(find.library() is None, reason="this Paddle has no oneDNN that can be called")

#: A rounded result, relative to the largest number of the exact one: half of the last of 8 bits, and sums in float32.
ROUNDED = 2**-8
#: A float32 result of the same numbers.
EXACT = 1e-5


@pytest.fixture(autouse=True)
def anywhere(monkeypatch):
    """Mixed precision on any processor."""
    monkeypatch.setattr(bfloat16, "lacking", lambda: None)


def numbers(*shape: int, seed: int = 0) -> paddle.Tensor:
    """Random ones that bfloat16 has, float32."""
    values = np.random.RandomState(seed + sum(shape)).randn(*shape).astype("float32")
    return paddle.to_tensor(values).cast("bfloat16").cast("float32")


def half(x: paddle.Tensor) -> paddle.Tensor:
    return x.cast("bfloat16")


def double(x: paddle.Tensor | None) -> paddle.Tensor | None:
    return None if x is None else x.cast("float64")


def difference(got: paddle.Tensor, expected: paddle.Tensor) -> float:
    got, expected = (value.cast("float32").numpy().astype("float64") for value in (got, expected))
    assert got.shape == expected.shape
    return float(np.abs(got - expected).max() / max(np.abs(expected).max(), 1e-30))


CONVOLUTIONS = {
    "dense": ((2, 9, 7, 16), (24, 16, 3, 3), Geometry(1, 1)),
    "stride 2": ((2, 8, 8, 16), (16, 16, 3, 3), Geometry(2, 1)),
    "image": ((2, 16, 16, 3), (8, 3, 3, 3), Geometry(2, 1)),
    "patches": ((2, 16, 16, 3), (8, 3, 4, 4), Geometry(4)),
    "grouped": ((2, 6, 6, 16), (16, 8, 3, 3), Geometry(1, 1, 2)),
    "depthwise": ((2, 9, 9, 16), (16, 1, 3, 3), Geometry(1, 1, 16)),
    "depthwise, stride 2": ((2, 8, 8, 16), (16, 1, 3, 3), Geometry(2, 1, 16)),
    "depthwise, one pixel": ((4, 1, 1, 16), (16, 1, 3, 3), Geometry(1, 1, 16)),
    "depthwise, lower than its kernel": ((40, 2, 2, 128), (128, 1, 3, 3), Geometry(1, 1, 128)),
    "pointwise": ((2, 8, 8, 16), (32, 16, 1, 1), Geometry()),
    "pointwise, many pixels": ((4, 32, 32, 8), (8, 8, 1, 1), Geometry()),
    "pointwise, stride 2": ((2, 8, 8, 8), (16, 8, 1, 1), Geometry(2)),
    "pointwise, image": ((2, 16, 16, 3), (8, 3, 1, 1), Geometry()),
    "pointwise, kernel larger than the map": ((4, 3, 3, 64), (96, 64, 1, 1), Geometry()),
    "depthwise, 1×1, stride 2": ((2, 9, 8, 16), (16, 1, 1, 1), Geometry(2, 0, 16)),
    "depthwise, 5×5, stride 3": ((2, 9, 8, 16), (16, 1, 5, 5), Geometry(3, 2, 16)),
    "patches that touch": ((4, 7, 6, 32), (24, 32, 2, 2), Geometry(2)),
    "patches with gaps": ((4, 9, 8, 16), (24, 16, 2, 2), Geometry(3)),
    "patches, stride 2": ((4, 7, 6, 32), (24, 32, 3, 3), Geometry(2, 1)),
    "patches, more padding than map": ((4, 2, 1, 32), (24, 32, 5, 5), Geometry(1, 2)),
    "patches, grouped": ((4, 5, 6, 64), (64, 16, 3, 3), Geometry(2, 1, 4)),
    "many patches": ((8, 12, 12, 16), (16, 16, 3, 3), Geometry(1, 1)),
    "sees all": ((32, 2, 2, 16), (16, 16, 3, 3), Geometry(1, 1)),
}


@pytest.mark.parametrize("smallest", [0, half_convolution.SMALLEST_KERNEL], ids=["patches", "chosen"])
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolutions(name, smallest, monkeypatch):
    monkeypatch.setattr(half_convolution, "SMALLEST_KERNEL", smallest)
    shape, kernel_shape, geometry = CONVOLUTIONS[name]
    x, kernel, bias = numbers(*shape), numbers(*kernel_shape), numbers(kernel_shape[0])
    for given in (None, bias):
        y = operations.convolve(half(x), kernel, given, geometry)
        assert y.dtype == paddle.bfloat16
        expected = by_paddle.convolve(double(x), double(kernel), double(given), geometry)
        assert difference(y, expected) <= ROUNDED
    grad = numbers(*y.shape)
    x_grad = operations.input_gradient(half(grad), kernel, shape, geometry)
    kernel_grad = operations.kernel_gradient(half(x), half(grad), kernel_shape, geometry)
    expected = by_paddle.convolution_gradients(double(x), double(kernel), double(grad), geometry)
    assert (x_grad.dtype, kernel_grad.dtype) == (paddle.bfloat16, paddle.float32)
    assert difference(x_grad, expected[0]) <= ROUNDED
    assert difference(kernel_grad, expected[1]) <= EXACT


def test_kernels_are_rounded_to_the_nearest():
    kernel = paddle.full([8, 8, 1, 1], 1 + 3 * 2**-9, "float32")  # between 1 and 1 + 2⁻⁷, nearer to that
    y = operations.convolve(half(paddle.ones([1, 4, 4, 8])), kernel, None, Geometry())
    assert float(y.cast("float32").max()) == 8 * (1 + 2**-7)


@pytest.mark.parametrize("smallest", [0, half_convolution.SMALLEST_KERNEL], ids=["patches", "chosen"])
def test_convolutions_of_the_first_channels(smallest, monkeypatch):
    monkeypatch.setattr(half_convolution, "SMALLEST_KERNEL", smallest)
    x, kernel, grad = numbers(2, 6, 6, 32), numbers(16, 16, 3, 3), numbers(2, 6, 6, 32, seed=1)
    geometry, first = Geometry(1, 1), (slice(None), slice(None), slice(None), slice(0, 16))
    y = operations.convolve_first(half(x), kernel, geometry)
    assert difference(y[first], by_paddle.convolve(double(x[first]), double(kernel), None, geometry)) <= ROUNDED
    expected = by_paddle.convolution_gradients(double(x[first]), double(kernel), double(grad[first]), geometry)
    x_grad = operations.input_gradient_first(half(grad), kernel, geometry)
    assert difference(x_grad[first], expected[0]) <= ROUNDED
    rest = (slice(None), slice(None), slice(None), slice(16, None))
    assert difference(y[rest], x[rest]) == difference(x_grad[rest], grad[rest]) == 0
    kernel_grad = operations.kernel_gradient_first(half(x), half(grad), kernel.shape, geometry)
    assert kernel_grad.dtype == paddle.float32
    assert difference(kernel_grad, expected[1]) <= EXACT


@pytest.mark.parametrize("shape", [(2, 7, 5, 16), (2, 40, 40, 8), (3, 150, 150, 8), (2, 90, 90, 64), (3, 150, 150, 16)])
def test_normalisations(shape):
    x, grad = numbers(*shape) + 2, numbers(*shape, seed=1)
    x = half(x).cast("float32")
    gamma, beta, epsilon = numbers(shape[3]) + 2, numbers(shape[3], seed=1), 1e-5
    y, mean, variance = operations.normalise(half(x), gamma, beta, epsilon)
    statistics = by_paddle.mean_and_variance(double(x))
    assert y.dtype == paddle.bfloat16
    assert mean.dtype == variance.dtype == paddle.float32
    for got, expected in zip((mean, variance), statistics):
        assert difference(got, expected) <= (EXACT if np.prod(shape[:3]) < 10000 else 1e-4)
    expected = by_paddle.normalise_by(double(x), *statistics, double(gamma), double(beta), epsilon)
    assert difference(y, expected) <= ROUNDED
    got = operations.normalise_by(half(x), mean, variance, gamma, beta, epsilon)
    assert difference(got, expected) <= ROUNDED
    grads = operations.normalise_gradient(half(x), mean, variance, gamma, half(grad), epsilon)
    sums = by_paddle.normalisation_sums(double(x), double(grad), *statistics, epsilon)
    x_grad = by_paddle.normalisation_gradient(double(x), *statistics, double(gamma), double(grad), epsilon, *sums)
    assert [value.dtype for value in grads] == [paddle.bfloat16, paddle.float32, paddle.float32]
    for got, expected, allowed in zip(grads, (x_grad, *sums), (ROUNDED, 1e-4, 1e-4)):
        assert difference(got, expected) <= allowed


def test_sums_and_activations():
    shape = (2, 6, 5, 16)
    x, other, grad = numbers(*shape), numbers(*shape, seed=1), numbers(*shape, seed=2)
    vector, by_image = numbers(16), numbers(2, 16)
    got = operations.weighted_sum(half(x), [vector, half(other)], vector, relu=True)
    expected = by_paddle.weighted_sum(double(x), [double(vector), double(other)], double(vector), True)
    assert difference(got, expected) <= ROUNDED
    many = [half(other)] * 30
    assert difference(operations.weighted_sum(half(x), many), double(x) + 30 * double(other)) <= 3 * ROUNDED
    in_place = half(x)
    assert operations.weighted_sum(in_place, [half(other)], in_place=True) is in_place
    assert difference(in_place, double(x) + double(other)) <= ROUNDED
    for product in (True, False):
        got = operations.by_picture(half(x), by_image, product, half(other))
        expected = by_paddle.by_picture(double(x), double(by_image), product, double(other))
        assert difference(got, expected) <= ROUNDED
    for algorithm in (builders.RELU, builders.GELU):
        relu = algorithm == builders.RELU
        y = operations.activate(half(x), algorithm)
        assert difference(y, by_paddle.activate(double(x), relu)) <= ROUNDED
        source = y.cast("float32") if relu else x
        got = operations.activate_gradient(half(source), half(grad), algorithm)
        assert difference(got, by_paddle.activate_gradient(double(source), double(grad), relu)) <= ROUNDED
    for function, axes in ((channel_sums, [0, 1, 2]), (image_sums, [1, 2])):
        got = function(half(x))
        assert got.dtype == paddle.float32
        assert difference(got, double(x).sum(axes)) <= EXACT
    contiguous = x.transpose([0, 3, 1, 2]).contiguous()
    assert difference(operations.channels_last(half(contiguous)), x) == 0


def test_what_was_finite_stays_finite():
    """The range is float32's: nothing overflows that did not there, and small numbers do not become zero."""
    x = paddle.to_tensor([1e38, -1e38, 1e-37, 1e-30]).reshape([1, 1, 1, 4])
    y = bfloat16.to_float32(bfloat16.to_bfloat16(x))
    np.testing.assert_allclose(y.numpy(), x.numpy(), rtol=2**-8)


def test_numbers_of_a_wrong_kind_are_refused():
    x, other = numbers(1, 4, 4, 8), half(numbers(1, 4, 4, 8))
    with pytest.raises(PpclsExtError, match="expected float32"):
        operations.weighted_sum(x, [other])


def test_large_maps_take_half_the_memory():
    shape = [1, 1, 1, SMALLEST // 2]
    x = empty_map(shape, BFLOAT16)
    assert (x.dtype, x.shape, x.element_size()) == (paddle.bfloat16, shape, 2)
    paddle.assign(half(paddle.ones(shape)), x)
    assert float(x.cast("float32").sum()) == SMALLEST // 2


class Compared:
    """Computes each operation that runs, and its gradients, in float32, too, and keeps the differences."""

    def __init__(self, monkeypatch) -> None:
        self.results: list[float] = []
        self.gradients: list[float] = []
        node, forward_before, backward_before = maps._Node, maps._Node.forward, maps._Node.backward

        def forward(ctx, rotated, operation, start):
            result, count = forward_before(ctx, rotated, operation, start), len(rotated)
            inputs = operation.prepared([*rotated[count - start :], *rotated[: count - start]])
            expected, _ = copy.copy(operation).forward(*[_as(paddle.float32, value) for value in inputs])
            self.results.append(difference(result, maps.from_channels_last(expected)))
            return result

        def backward(ctx, grad):
            with paddle.no_grad():
                self.compare(ctx, grad)
            return backward_before(ctx, grad)

        monkeypatch.setattr(node, "forward", staticmethod(forward))
        monkeypatch.setattr(node, "backward", staticmethod(backward))

    def compare(self, ctx, grad) -> None:
        """The gradients of one node against those of the same operation in float32, from its own saved numbers."""
        values, operation = ctx.saved_tensor(), ctx.operation
        inputs, saved = list(values[: ctx.count]), list(values[ctx.count :])
        assert inputs[0].dtype == paddle.bfloat16, type(operation).__name__
        assert all(value.dtype == paddle.bfloat16 for value in saved if value.ndim == 4), "maps take half the memory"
        rows = maps.to_channels_last(grad)
        results = []
        for kind in (paddle.bfloat16, paddle.float32):
            given = [_as(kind, value) for value in (rows, *inputs, *saved)]
            kept = given[1 + ctx.count :]
            results.append(operation.backward(given[0], given[1 : 1 + ctx.count], kept, list(ctx.needed)))
        for got, expected, needed in zip(*results, ctx.needed):
            if needed:
                assert expected.dtype == paddle.float32
                self.gradients.append(difference(got, expected))


def _as(kind, value: paddle.Tensor) -> paddle.Tensor:
    """A map in that kind of numbers, in its order of memory; anything else as it is."""
    if value.dtype != paddle.bfloat16 or kind == paddle.bfloat16:
        return value
    if value.is_contiguous():
        return value.cast("float32")
    return maps.from_channels_last(value.transpose([0, 2, 3, 1]).cast("float32"))


FEW = ("MobileOne_S0", "MobileOne_S4", "RepVGG_A0", "FasterNet_T0", "FasterNet_T2")


@pytest.mark.parametrize("name", [pytest.param(name, marks=() if name in FEW else pytest.mark.slow) for name in MODELS])
def test_every_net(name, monkeypatch):
    """A step: the result and the gradients of each operation of the net, of the numbers that it got."""
    paddle.seed(0)
    net = ppcls_ext.build(name, class_num=10)
    net.train()
    images = paddle.randn([4, 3, 32, 32])
    compared = Compared(monkeypatch)
    with ppcls_ext.mixed_precision():
        logits = net(images)
        loss = nn.functional.cross_entropy(logits, paddle.arange(4))
    assert (logits.dtype, loss.dtype) == (paddle.float32, paddle.float32)
    loss.backward()
    # several roundings follow each other in an operation
    assert np.percentile(compared.results, 75) <= 2 * ROUNDED
    assert max(compared.results) < 0.1, "a normalisation of four values that are nearly equal magnifies them"
    assert np.percentile(compared.gradients, 95) <= 2 * ROUNDED
    assert max(compared.gradients) < 0.2, "one that almost cancels out feels more of them"
    for parameter in net.parameters():
        if parameter.grad is not None:
            assert parameter.grad.dtype == paddle.float32
            assert bool(paddle.isfinite(parameter.grad).all())


@pytest.mark.parametrize("name", ["MobileOne_S0", "MobileOne_S4", "RepVGG_A0", "FasterNet_T0", "FasterNet_S"])
@pytest.mark.parametrize("fused", [False, True])
def test_answers_are_near(name, fused):
    """Logits of a net in eval mode: 60 layers of rounding leave a few hundredths of their spread."""
    paddle.seed(0)
    net = ppcls_ext.build(name, class_num=10, fused=fused)
    net.eval()
    images = paddle.randn([4, 3, 64, 64])
    with paddle.no_grad():
        expected = net(images)
        with ppcls_ext.mixed_precision():
            got = net(images)
    assert got.dtype == paddle.float32
    found = difference(got, expected)
    assert 0 < found < 0.1


def test_a_training_learns_as_in_float32():
    def losses(mixed: bool) -> list[float]:
        paddle.seed(0)
        net = ppcls_ext.build("FasterNet_T0", class_num=4)
        optimizer = paddle.optimizer.AdamW(1e-3, parameters=net.parameters())
        images, labels = paddle.randn([8, 3, 32, 32]), paddle.arange(8) % 4
        found = []
        for _ in range(8):
            with ppcls_ext.mixed_precision(mixed):
                loss = nn.functional.cross_entropy(net(images), labels)
            loss.backward()
            optimizer.step()
            optimizer.clear_grad()
            found.append(float(loss))
        return found

    float32, mixed = losses(False), losses(True)
    assert mixed != float32
    assert mixed[-1] < 0.5 * mixed[0]
    np.testing.assert_allclose(mixed, float32, rtol=0.15, atol=0.05)


def test_the_same_twice():
    def logits() -> np.ndarray:
        paddle.seed(0)
        net = ppcls_ext.build("MobileOne_S0", class_num=4)
        with ppcls_ext.mixed_precision():
            return net(paddle.randn([2, 3, 32, 32])).numpy()

    np.testing.assert_array_equal(logits(), logits())


BLOCKS = {
    "RepConv": lambda: RepConv(8, 8, 3),
    "RepVGGBlock": lambda: RepVGGBlock(8, 8, use_se=True),
    "MobileOneBlock": lambda: MobileOneBlock(8, 8, groups=8, conv_branches=2),
    "SiLU": lambda: MobileOneBlock(8, 16, 1, activation=nn.SiLU),
    "dilated": lambda: RepVGGBlock(8, 8, dilation=2),
    "SE and SiLU": lambda: RepVGGBlock(8, 8, use_se=True, activation=nn.SiLU),
}


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", BLOCKS)
def test_a_block_in_another_net(name, training):
    """It takes and gives float32 maps, so that any layer of Paddle's may stand before and behind it."""
    paddle.seed(0)
    net = nn.Sequential(nn.Conv2D(3, 8, 3), BLOCKS[name](), nn.AdaptiveAvgPool2D(1))
    net.train() if training else net.eval()
    x = paddle.randn([2, 3, 12, 12])
    x.stop_gradient = False
    expected = net(x)
    net[1](paddle.randn([2, 8, 9, 9]))
    with ppcls_ext.mixed_precision():
        y = net(x)
    y.sum().backward()
    assert y.dtype == x.grad.dtype == paddle.float32
    assert difference(y, expected) < 0.05


def test_layers_of_others_inside_of_a_net():
    """Hooks, another activation and a convolution of one's own see what they can compute with."""
    paddle.seed(0)
    net = ppcls_ext.build("RepVGG_A0", class_num=4)
    block = net.stage1[0]
    block.rbr_dense.conv.register_forward_post_hook(lambda layer, inputs, output: output * 2)
    block.activation, block.has_relu = nn.Hardswish(), False
    net.stage2[0].rbr_1x1.bn = nn.BatchNorm2D(96, use_global_stats=True)
    x = paddle.randn([8, 3, 64, 64])
    expected = net(x)
    with ppcls_ext.mixed_precision():
        y = net(x)
    y.sum().backward()
    assert 0 < difference(y, expected) < 0.2
    assert block.rbr_dense.conv.weight.grad.dtype == paddle.float32


@pytest.mark.parametrize("name", ["MobileOne_S0", "FasterNet_T0"])
def test_maps_that_are_given_out_are_float32(name):
    paddle.seed(0)
    x = paddle.randn([2, 3, 64, 64])
    features, stages = ppcls_ext.build(name, features_only=True), ppcls_ext.build(name, class_num=4, return_stages=True)
    for net in (features, stages):
        net.eval()

    def given_out() -> list[paddle.Tensor]:
        return [*features(x), *stages(x).values()]

    expected = given_out()
    with ppcls_ext.mixed_precision():
        got = given_out()
    assert all(map_.dtype == paddle.float32 for map_ in got)
    assert all(difference(one, other) < 0.1 for one, other in zip(got, expected))


def test_a_frozen_backbone():
    paddle.seed(0)
    net = ppcls_ext.build("MobileOne_S0", class_num=4)
    net.train()
    net.freeze(2)
    x = paddle.randn([8, 3, 64, 64])
    expected = net(x)
    with ppcls_ext.mixed_precision():
        y = net(x)
    y.sum().backward()
    assert 0 < difference(y, expected) < 0.5, "random weights in train mode magnify rounding"
    assert net.linear.weight.grad is not None
    assert net.stage0.rbr_scale.conv.weight.grad is None


def test_where_it_is_on():
    net = ppcls_ext.build("FasterNet_T0", class_num=4)
    net.eval()
    x = paddle.randn([1, 3, 32, 32])
    expected = net(x).numpy()

    def is_mixed() -> bool:
        return not np.array_equal(net(x).numpy(), expected)

    with ppcls_ext.mixed_precision():
        assert is_mixed()
        with ppcls_ext.mixed_precision(False):
            assert not is_mixed()
        assert is_mixed()
        found = []
        thread = threading.Thread(target=lambda: found.append(bfloat16.is_on()))
        thread.start()
        thread.join()
        assert found == [False]
    assert not is_mixed()
    with pytest.raises(Exception, match="input's channels"), ppcls_ext.mixed_precision():
        net(paddle.randn([1, 5, 32, 32]))
    assert not is_mixed()


def test_paddles_own_mixed_precision_around_it_does_no_harm():
    net = ppcls_ext.build("FasterNet_T0", class_num=4)
    scaler = paddle.amp.GradScaler(enable=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with paddle.amp.auto_cast(), ppcls_ext.mixed_precision():
            loss = net(paddle.randn([2, 3, 32, 32])).sum()
    scaler.scale(loss).backward()
    assert net.head.weight.grad.dtype == paddle.float32


def test_a_processor_without_it(monkeypatch):
    monkeypatch.undo()
    monkeypatch.setattr(bfloat16, "has_primitives", lambda: False)
    monkeypatch.setattr(find.library(), "has_bfloat16", False)
    assert bfloat16.instructions() == ""
    said = r"no bfloat16 instructions \(AVX-512 BF16 or AMX\): float32 is used"
    with pytest.warns(UserWarning, match=said), ppcls_ext.mixed_precision():
        assert not bfloat16.is_on()


def test_a_library_that_computes_something_else_is_not_used(monkeypatch):
    def fault(library):
        return "dense convolution: difference 3.0e-01"

    monkeypatch.undo()
    monkeypatch.setattr(find.library(), "has_bfloat16", True)
    monkeypatch.setattr(bfloat16, "bfloat16_fault", fault)
    bfloat16.has_primitives.cache_clear()
    try:
        with pytest.warns(UserWarning, match="does not compute in bfloat16 as it should here: dense convolution"):
            assert bfloat16.lacking() == "Paddle's oneDNN does not compute in bfloat16 as it should here"
    finally:
        bfloat16.has_primitives.cache_clear()


def test_the_primitives_of_this_processor():
    library = find.library()
    if library.has_bfloat16:
        assert bfloat16_fault(library) is None
    else:
        with pytest.raises(UnsupportedError):
            library.primitive(("none",), builders.activation, (1, 2, 2, 8), builders.RELU, False, BFLOAT16)
