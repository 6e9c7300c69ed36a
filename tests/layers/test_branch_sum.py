"""The computing paths of the branch sums against the definition: outputs, gradients, running statistics."""

from __future__ import annotations

import copy

import paddle
import pytest

from ppcls_ext.layers import patch_moments
from ppcls_ext.layers.branch_sum import can_sum, folded, grouped
from ppcls_ext.layers.rep_conv import BranchNames, RepConv
from tests.helpers import float64, randomise_norms, relative

NAMES = BranchNames("conv", "scale", "identity", "fused")
# Paddle keeps ε and the momentum as float32: these are exact there, so that float64 results can be compared.
EPSILON, MOMENTUM = 2.0**-17, 0.875

# kernel size, stride, groups, in channels, out channels
POINTWISE = [(1, 1, 1, 6, 6), (1, 1, 1, 6, 9), (1, 1, 1, 24, 6)]
DEPTHWISE = [(3, 1, 6, 6, 6), (3, 2, 6, 6, 6), (5, 1, 6, 6, 6), (5, 2, 6, 6, 6), (1, 1, 6, 6, 6)]
STEM = [(3, 2, 1, 3, 6), (3, 1, 1, 3, 5), (5, 2, 1, 1, 4), (1, 2, 1, 3, 6)]
DENSE = [(3, 1, 1, 4, 6), (3, 2, 2, 4, 4), (5, 1, 1, 4, 4), (1, 1, 2, 4, 6), (1, 2, 1, 4, 6)]
MAPS = [(4, 5, 3), (1, 4, 7), (5, 1, 1), (2, 2, 1), (2, 19, 14)]  # N, H, W
FOLDED = POINTWISE + DEPTHWISE + STEM


def build(shape, count, seed=0) -> RepConv:
    size, stride, groups, in_channels, out_channels = shape
    paddle.seed(seed)
    with float64():
        layer = RepConv(in_channels, out_channels, size, stride, groups, NAMES, count)
    randomise_norms(layer, seed)
    for part in layer.sublayers():
        if isinstance(part, paddle.nn.BatchNorm2D):
            part._epsilon, part._momentum = EPSILON, MOMENTUM
    layer.train()
    return layer


def run(layer, forward, x_value, seed=1):
    """Output, gradients of input and parameters, running statistics after one step of `forward`."""
    x = x_value.clone().detach()
    x.stop_gradient = False
    y = forward(x)
    paddle.seed(seed)
    (y * paddle.randn(y.shape, dtype=y.dtype)).sum().backward()
    results = {"output": y, "input gradient": x.grad}
    for name, value in layer.named_parameters():
        results[name] = value if value.stop_gradient else value.grad
    return {name: value.numpy() for name, value in results.items()}


def apply(way, layer):
    return lambda x: way(x, layer.branches(), layer.groups, layer.kernel_size, layer.stride)


def check_equal(expected, got, tolerance=1e-9):
    assert expected.keys() == got.keys()
    largest = max(abs(value).max() for name, value in expected.items() if name.endswith("weight"))
    for name, value in expected.items():
        if abs(value).max() < 1e-9 * largest:  # a gradient that is zero but for rounding
            assert abs(got[name] - value).max() < 1e-9 * largest, name
        else:
            assert relative(got[name], value) < tolerance, name


def compare(layer, way, x, tolerance=1e-9):
    other = copy.deepcopy(layer)
    check_equal(run(layer, layer.sum_of_branches, x), run(other, apply(way, other), x), tolerance)


def random_map(shape, map_size, seed=0):
    paddle.seed(seed)
    batch, height, width = map_size
    return paddle.randn([batch, shape[3], height, width], dtype="float64") * 2 + 1.5


@pytest.mark.parametrize("way", [folded, grouped])
@pytest.mark.parametrize("count", [None, 1, 2, 4])
@pytest.mark.parametrize("map_size", MAPS)
@pytest.mark.parametrize("shape", FOLDED)
def test_equal_to_the_plain_sum(way, shape, map_size, count):
    if map_size[0] == 1 and shape[1] == 2 and map_size[1:] == (1, 1):
        pytest.skip("one number has no variance")
    compare(build(shape, count), way, random_map(shape, map_size))


@pytest.mark.parametrize("tile", [(1, 1), (1, 4), (3, 1), (3, 2), (6, 2), (3, 4), (6, 4)])
@pytest.mark.parametrize("shape", DEPTHWISE)
def test_any_tiling_equals_the_plain_sum(monkeypatch, shape, tile):
    monkeypatch.setattr(patch_moments, "best_tile", lambda *sizes: tile)
    stride = shape[1]
    for odd in range(stride):  # the last row and column of the map may stay unread or not
        compare(build(shape, 2), folded, random_map(shape, (2, 6 * stride - odd, 4 * stride - odd)))


@pytest.mark.parametrize("map_size", MAPS)
def test_a_single_channel_is_dense_and_depthwise(map_size):
    # the gradient of a 1×1 kernel, which scales what is normalised, is rounding but for ε
    compare(build((3, 1, 1, 1, 1), 2), folded, random_map((3, 1, 1, 1, 1), map_size), tolerance=1e-7)


@pytest.mark.parametrize("shape", [(1, 1, 1, 12, 12), (1, 1, 1, 12, 5)])
@pytest.mark.parametrize("map_size", [(1, 2, 3), (4, 9, 9)])
def test_pointwise_with_few_and_many_pixels(shape, map_size):
    compare(build(shape, 4), folded, random_map(shape, map_size))


@pytest.mark.parametrize("shape", DENSE + FOLDED)
@pytest.mark.parametrize("count", [None, 3])
def test_the_layer_itself_equals_its_definition(shape, count):
    layer = build(shape, count)
    other = copy.deepcopy(layer)
    x = random_map(shape, (3, 6, 5))
    check_equal(run(layer, layer.sum_of_branches, x), run(other, other, x))


@pytest.mark.parametrize("shape", [(1, 1, 1, 32, 32), (3, 1, 32, 32, 32), (3, 2, 32, 32, 32)])
@pytest.mark.parametrize("map_size", [(8, 4, 4), (4, 16, 16)])
def test_float32_keeps_its_digits_where_means_are_large(shape, map_size):
    # activations after ReLU, with means up to a hundred deviations
    layer = build(shape, 4)
    channel_means = paddle.linspace(0, 100, 32, dtype="float64").reshape([1, -1, 1, 1])
    x = paddle.nn.functional.relu(random_map(shape, map_size)) + channel_means
    expected = run(layer, layer.sum_of_branches, x)
    single = build(shape, 4).to(dtype="float32")
    got = run(single, apply(folded, single), x.astype("float32"))
    plain = build(shape, 4).to(dtype="float32")
    usual = run(plain, plain.sum_of_branches, x.astype("float32"))
    for name in ("output", "input gradient"):
        error = relative(got[name], expected[name])
        assert error < max(2e-5, 10 * relative(usual[name], expected[name])), name


def test_constant_channels_stay_finite():
    # the variance of a constant is zero: nothing may fall below −ε by rounding
    layer = build((3, 1, 8, 8, 8), 2).to(dtype="float32")
    x = paddle.full([4, 8, 20, 20], 1000.0)
    result = run(layer, apply(folded, layer), x)
    assert all(paddle.isfinite(paddle.to_tensor(value)).all() for value in result.values())


def test_works_without_gradients():
    layer = build((3, 1, 6, 6, 6), 2)
    x = random_map((3, 1, 6, 6, 6), (2, 5, 4))
    with paddle.no_grad():
        assert relative(layer(x), layer.sum_of_branches(x)) < 1e-9


def test_frozen_parameters_get_no_gradient_and_the_others_theirs():
    layer = build((1, 1, 1, 6, 6), 2)
    layer.conv[0].conv.weight.stop_gradient = True
    compare(layer, folded, random_map((1, 1, 1, 6, 6), (2, 5, 4)))
    assert layer.conv[0].conv.weight.grad is None


def test_which_layers_are_summed_together():
    x = paddle.zeros([1, 6, 4, 4])
    assert can_sum(x, 6, 1, 1, 1)
    assert can_sum(x, 9, 1, 1, 1)
    assert can_sum(x, 6, 6, 3, 2)
    assert not can_sum(x, 6, 1, 3, 1)
    assert can_sum(x[:, :3], 6, 1, 3, 2)
    assert not can_sum(x[:, :3], 3, 1, 3, 1)
    assert not can_sum(x, 12, 6, 3, 1)
    assert not can_sum(x.astype("float16"), 6, 1, 1, 1)


@pytest.mark.parametrize("frozen", ["input", "parameters"])
@pytest.mark.parametrize("shape", FOLDED)
@pytest.mark.parametrize("map_size", [(3, 2, 2), (3, 19, 14)])
def test_what_needs_no_gradient_gets_none(shape, map_size, frozen):
    layer = build(shape, 2)
    x = random_map(shape, map_size)
    x.stop_gradient = frozen == "input"
    for value in layer.parameters():
        value.stop_gradient = value.stop_gradient or frozen == "parameters"
    folded(x, layer.branches(), layer.groups, layer.kernel_size, layer.stride).sum().backward()
    assert (x.grad is None) == (frozen == "input")
    assert all((value.grad is None) == value.stop_gradient for value in layer.parameters())
