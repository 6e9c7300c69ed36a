"""The computing paths of the branch sums against the definition: outputs, gradients, running statistics."""

from __future__ import annotations

import copy

import paddle
import pytest

from ppcls_ext.layers.branch_sum import PointwiseSum, branch_sum, grouped, sum_by_onednn
from ppcls_ext.layers.rep_conv import BranchNames, RepConv
from ppcls_ext.onednn import find
from ppcls_ext.onednn.builders import Geometry
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


def by_groups(layer):
    return lambda x: grouped(x, layer.branches(), layer.groups, layer.kernel_size, layer.stride)


def by_onednn(layer, relu=False):
    geometry = Geometry(layer.stride, layer.padding, layer.groups)
    return lambda x: sum_by_onednn(x, layer.branches(), geometry, relu)


def check_equal(expected, got, tolerance=1e-9):
    assert expected.keys() == got.keys()
    largest = max(abs(value).max() for name, value in expected.items() if name.endswith("weight"))
    for name, value in expected.items():
        if abs(value).max() < 1e-9 * largest:  # a gradient that is zero but for rounding
            assert abs(got[name] - value).max() < 1e-9 * largest, name
        else:
            assert relative(got[name], value) < tolerance, name


def random_map(shape, map_size, seed=0):
    paddle.seed(seed)
    batch, height, width = map_size
    return paddle.randn([batch, shape[3], height, width], dtype="float64") * 2 + 1.5


needs_onednn = pytest.mark.skipif(find.library() is None, reason="this Paddle has no oneDNN that can be called")


@pytest.mark.parametrize("count", [None, 1, 2, 4])
@pytest.mark.parametrize("map_size", MAPS)
@pytest.mark.parametrize("shape", POINTWISE + DEPTHWISE)
def test_grouped_equals_the_plain_sum(shape, map_size, count):
    if map_size[0] == 1 and shape[1] == 2 and map_size[1:] == (1, 1):
        pytest.skip("one number has no variance")
    layer, x = build(shape, count), random_map(shape, map_size)
    other = copy.deepcopy(layer)
    check_equal(run(layer, layer.sum_of_branches, x), run(other, by_groups(other), x))


def compare_single(shape, count, x, relu=False, tolerance=1e-5, of_parameters=None):
    """oneDNN in float32 against the definition in float64; ten times Paddle's own error in float32 is allowed too."""
    exact, single, plain = build(shape, count), *(build(shape, count).to(dtype="float32") for _ in range(2))
    after = paddle.nn.functional.relu if relu else lambda y: y
    expected = run(exact, lambda value: after(exact.sum_of_branches(value)), x)
    got = run(single, by_onednn(single, relu), x.astype("float32"))
    usual = run(plain, lambda value: after(plain.sum_of_branches(value)), x.astype("float32"))
    scale = max(abs(value).max() for name, value in expected.items() if name.endswith("weight"))
    for name, value in expected.items():
        largest = max(abs(value).max(), 1e-2 * scale if name.endswith(("weight", "bias")) else 0)
        error, allowed = abs(got[name] - value).max() / largest, abs(usual[name] - value).max() / largest
        limit = tolerance if of_parameters is None or name in ("output", "input gradient") else of_parameters
        assert error <= max(limit, 10 * allowed), (name, error, allowed)


@needs_onednn
@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("count", [None, 1, 3])
@pytest.mark.parametrize("map_size", [(4, 5, 3), (1, 4, 7), (5, 2, 1), (2, 19, 14)])
@pytest.mark.parametrize("shape", POINTWISE + DEPTHWISE + STEM + DENSE)
def test_onednn_equals_the_plain_sum(shape, map_size, count, relu):
    compare_single(shape, count, random_map(shape, map_size), relu)


@needs_onednn
@pytest.mark.parametrize("scale", [1e-4, 1e-2, 1.0])
def test_small_inputs_of_a_scale_branch(scale):
    # where w²σ² is not large beside ε, the branch scales by less than its sign
    shape = (3, 1, 6, 6, 6)
    compare_single(shape, 2, random_map(shape, (4, 6, 5)) * scale, tolerance=5e-5)


@needs_onednn
@pytest.mark.parametrize("shape", [(1, 1, 1, 32, 32), (3, 1, 32, 32, 32), (3, 2, 32, 32, 32), (3, 1, 1, 8, 8)])
@pytest.mark.parametrize("map_size", [(8, 4, 4), (4, 16, 16)])
def test_float32_keeps_its_digits_where_means_are_large(shape, map_size):
    # activations after ReLU, with means up to a hundred deviations
    channel_means = paddle.linspace(0, 100, shape[3], dtype="float64").reshape([1, -1, 1, 1])
    x = paddle.nn.functional.relu(random_map(shape, map_size)) + channel_means
    compare_single(shape, 2, x, tolerance=5e-5, of_parameters=1e-3)


@needs_onednn
def test_float32_layers_where_the_default_is_float64():
    layer = build((3, 1, 10, 10, 10), 2).to(dtype="float32")
    x = random_map((3, 1, 10, 10, 10), (2, 5, 4)).astype("float32")
    expected = copy.deepcopy(layer).sum_of_branches(x)
    with float64():
        assert relative(layer(x), expected) < 1e-5


@needs_onednn
def test_constant_channels_stay_finite():
    layer = build((3, 1, 8, 8, 8), 2).to(dtype="float32")
    result = run(layer, by_onednn(layer), paddle.full([4, 8, 20, 20], 1000.0))
    assert all(paddle.isfinite(paddle.to_tensor(value)).all() for value in result.values())


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("shape", DENSE + POINTWISE + DEPTHWISE + STEM)
@pytest.mark.parametrize("count", [None, 3])
def test_the_layer_itself_equals_its_definition(shape, count, dtype):
    layer = build(shape, count).to(dtype=dtype)
    other = copy.deepcopy(layer)
    x = random_map(shape, (3, 6, 5)).astype(dtype)
    if dtype == "float64":
        check_equal(run(layer, layer.sum_of_branches, x), run(other, other, x))
    else:
        assert relative(other(x), layer.sum_of_branches(x)) < 1e-5


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_works_without_gradients(dtype):
    layer = build((3, 1, 6, 6, 6), 2).to(dtype=dtype)
    x = random_map((3, 1, 6, 6, 6), (2, 5, 4)).astype(dtype)
    with paddle.no_grad():
        assert relative(layer(x), layer.sum_of_branches(x)) < 1e-5


@needs_onednn
def test_which_sums_onednn_computes():
    layer = build((3, 1, 6, 6, 6), 2).to(dtype="float32")
    geometry, branches = Geometry(1, 1, 6), layer.branches()
    x = paddle.randn([2, 6, 4, 4])
    assert branch_sum(x, branches, geometry) is not None
    assert branch_sum(x.astype("float64"), branches, geometry) is None
    assert branch_sum(x, build((3, 1, 6, 6, 6), 2).branches(), geometry) is None


@needs_onednn
@pytest.mark.parametrize("frozen", ["input", "parameters", "first kernel", "scale"])
@pytest.mark.parametrize("shape", POINTWISE + DEPTHWISE + STEM + DENSE)
def test_what_needs_no_gradient_gets_none(shape, frozen):
    layer = build(shape, 2).to(dtype="float32")
    x = random_map(shape, (3, 6, 5)).astype("float32")
    x.stop_gradient = frozen == "input"
    for name, value in layer.named_parameters():
        value.stop_gradient = (
            value.stop_gradient
            or frozen == "parameters"
            or (frozen == "first kernel" and name == "conv.0.conv.weight")
            or (frozen == "scale" and name.startswith("scale"))
        )
    by_onednn(layer)(x).sum().backward()
    assert (x.grad is None) == (frozen == "input")
    assert all((value.grad is None) == value.stop_gradient for value in layer.parameters())


@needs_onednn
def test_two_runs_agree_to_the_bit():
    shape = (3, 1, 1, 16, 16)
    results = [
        run(layer, by_onednn(layer), random_map(shape, (4, 12, 12)).astype("float32"))
        for layer in (build(shape, 2).to(dtype="float32") for _ in range(2))
    ]
    assert all((results[0][name] == results[1][name]).all() for name in results[0])


@needs_onednn
@pytest.mark.parametrize("outputs", [8, 12])
def test_many_pixels_fold_pointwise_branches(monkeypatch, outputs):
    calls = []
    original = PointwiseSum.forward
    monkeypatch.setattr(PointwiseSum, "forward", lambda *arguments: calls.append(1) or original(*arguments))
    shape = (1, 1, 1, 8, outputs)
    assert PointwiseSum.pays(3, outputs, 8, 4 * 81)
    assert not PointwiseSum.pays(3, outputs, 8, 2)
    assert not PointwiseSum.pays(1, outputs, 8, 4 * 81)
    compare_single(shape, 3, random_map(shape, (4, 9, 9)), relu=True)
    assert len(calls) == 1
