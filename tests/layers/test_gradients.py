"""Gradients in every way that a training uses them, against Paddle's own operations in float64.

One backward a step is not enough: Paddle adds to gradients, scales and clips them in place, once for each owner, and
hands over parameters that are views.
"""

from __future__ import annotations

import contextlib
import itertools

import numpy as np
import paddle
import pytest
from paddle import nn
from paddle.distributed.fleet.utils import recompute

import ppcls_ext
from ppcls_ext.errors import PpclsExtError
from ppcls_ext.layers.conv_norm import ConvNorm
from ppcls_ext.layers.rep_conv import BranchNames, RepConv
from ppcls_ext.layers.squeeze_excite import SqueezeExcite
from ppcls_ext.models.fasternet import GELU, FasterNetBlock
from ppcls_ext.onednn import find, maps
from ppcls_ext.onednn.convolution import conv2d
from ppcls_ext.onednn.elementwise import add, gelu, relu
from tests.helpers import randomise_norms

pytestmark = pytest.mark.skipif(find.library() is None, reason="this Paddle has no oneDNN that can be called")

NAMES = BranchNames("conv", "scale", "identity", "fused")
CHANNELS = 8


class Gated(nn.Layer):
    def __init__(self):
        super().__init__()
        self.conv = RepConv(CHANNELS, CHANNELS, 1, 1, 1, NAMES)
        self.gate = SqueezeExcite(CHANNELS, 3, ("reduce", "expand"))

    def forward(self, x):
        return self.gate(self.conv(x))


class Elementwise(nn.Layer):
    """A convolution with a bias, a GELU, a ReLU and a sum whose operands are used elsewhere too."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2D(CHANNELS, CHANNELS, 3, padding=1)

    def forward(self, x):
        y = conv2d(x, self.conv.weight, self.conv.bias, 1, 1, training=True)
        one, other = relu(y, True), gelu(y, True)
        return add(add(one, other, True), one, True)


LAYERS = {
    "dense": lambda: RepConv(CHANNELS, CHANNELS, 3, 1, 1, NAMES),
    "strided": lambda: RepConv(CHANNELS, CHANNELS, 3, 2, 1, NAMES),
    "grouped": lambda: RepConv(CHANNELS, CHANNELS, 3, 1, 2, NAMES),
    "depthwise": lambda: RepConv(CHANNELS, CHANNELS, 3, 1, CHANNELS, NAMES, conv_branches=2),
    "pointwise": lambda: RepConv(CHANNELS, CHANNELS, 1, 1, 1, NAMES, conv_branches=4),
    "one branch": lambda: ConvNorm(CHANNELS, CHANNELS, 1, 1, ("conv", "norm")),
    "gated": Gated,
    "elementwise": Elementwise,
    "block with ReLU": lambda: FasterNetBlock(CHANNELS, nn.ReLU, 0.0, False),
    "block with GELU": lambda: FasterNetBlock(CHANNELS, GELU, 0.0, False),
}


@contextlib.contextmanager
def by_paddle(patch):
    patch.setenv(find.VARIABLE, "0")
    find._search.cache_clear()
    try:
        yield
    finally:
        patch.delenv(find.VARIABLE)
        find._search.cache_clear()


def random_map(seed, dtype):
    return paddle.to_tensor(np.random.RandomState(seed).randn(4, CHANNELS, 9, 9)).astype(dtype)


def loss(y):
    weights = paddle.linspace(0, 1, y.size, dtype="float64").reshape(y.shape).astype(y.dtype)
    return (y * y * weights).sum()


def gradients(layer):
    return {name: value.grad.numpy() for name, value in layer.named_parameters() if value.grad is not None}


def accumulated(layer, dtype):
    for seed in range(3):
        loss(layer(random_map(seed, dtype))).backward()
    return gradients(layer)


def accumulated_after_zeros(layer, dtype):
    optimizer = paddle.optimizer.SGD(0.0, parameters=layer.parameters())
    accumulated(layer, dtype)
    optimizer.clear_grad()
    return accumulated(layer, dtype)


def one_backward_of_two(layer, dtype):
    (loss(layer(random_map(0, dtype))) + loss(layer(random_map(1, dtype)))).backward()
    return gradients(layer)


def used_twice(layer, dtype):
    loss(layer(layer(random_map(0, dtype)))).backward()
    return gradients(layer)


def clipped(layer, dtype):
    loss(layer(random_map(0, dtype))).backward()
    nn.utils.clip_grad_norm_(layer.parameters(), 1.0)
    return gradients(layer)


def clipped_while_training(layer, dtype):
    clip = nn.ClipGradByGlobalNorm(1.0)
    optimizer = paddle.optimizer.Momentum(0.1, parameters=layer.parameters(), grad_clip=clip)
    for seed in range(3):
        loss(layer(random_map(seed, dtype))).backward()
        optimizer.step()
        optimizer.clear_grad()
    return {name: value.numpy() for name, value in layer.named_parameters()}


def scaled_in_place(layer, dtype):
    loss(layer(random_map(0, dtype))).backward()
    with paddle.no_grad():
        for value in layer.parameters():
            if value.grad is not None:
                value.grad.scale_(0.5)
    return gradients(layer)


def changed_by_hooks(layer, dtype):
    for value in layer.parameters():
        if not value.stop_gradient:
            value.register_hook(paddle.no_grad()(lambda grad: grad.scale_(0.5)))
    loss(layer(random_map(0, dtype))).backward()
    return gradients(layer)


def recomputed(layer, dtype):
    x = random_map(0, dtype)
    x.stop_gradient = False
    loss(recompute(layer, x)).backward()
    return {**gradients(layer), "input": x.grad.numpy()}


def of_the_input(layer, dtype):
    x = random_map(0, dtype)
    x.stop_gradient = False
    for _ in range(2):
        loss(layer(x)).backward()
    return {**gradients(layer), "input": x.grad.numpy()}


WAYS = [
    accumulated,
    accumulated_after_zeros,
    one_backward_of_two,
    used_twice,
    clipped,
    clipped_while_training,
    scaled_in_place,
    changed_by_hooks,
    recomputed,
    of_the_input,
]


def build(kind, dtype):
    paddle.seed(0)
    layer = LAYERS[kind]()
    randomise_norms(layer, 1)
    layer.to(dtype=dtype)
    layer.train()
    return layer


def frozen(layer):
    for part in layer.sublayers():
        if isinstance(part, nn.BatchNorm2D):
            part.eval()
    return layer


def check(got, expected, tolerance):
    assert got.keys() == expected.keys()
    largest = max(abs(value).max() for value in expected.values())
    for name, value in expected.items():
        assert abs(got[name] - value).max() <= tolerance * max(abs(value).max(), 1e-2 * largest), name


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
@pytest.mark.parametrize("kind", LAYERS)
def test_gradients_are_those_of_float64(kind, way, monkeypatch):
    if kind == "strided" and way is used_twice:
        pytest.skip("halves the map")
    got = way(build(kind, "float32"), "float32")
    with by_paddle(monkeypatch):
        expected = way(build(kind, "float64"), "float64")
    check(got, expected, 1e-3 if way is clipped_while_training else 1e-4)


@pytest.mark.parametrize("way", [accumulated, used_twice, clipped, of_the_input], ids=lambda way: way.__name__)
@pytest.mark.parametrize("mode", ["frozen", "eval"])
@pytest.mark.parametrize("kind", [kind for kind in LAYERS if kind != "elementwise"])
def test_gradients_with_frozen_normalisations(kind, mode, way, monkeypatch):
    if kind == "strided" and way is used_twice:
        pytest.skip("halves the map")

    def prepared(dtype):
        layer = build(kind, dtype)
        if mode == "eval":
            layer.eval()
        return frozen(layer)

    got = way(prepared("float32"), "float32")
    with by_paddle(monkeypatch):
        expected = way(prepared("float64"), "float64")
    check(got, expected, 1e-4)


def memory_of(value):
    """First byte and the one behind the last; of views with gaps, too."""
    start = value.data_ptr()
    steps = sum((side - 1) * stride for side, stride in zip(value.shape, value.strides))
    return start, start + 4 * (steps + 1)


@pytest.fixture
def shared(monkeypatch):
    """Pairs of what a node returns, and of that and what was there before, that share memory."""
    found, backward = [], maps._Node.backward

    def watched(ctx, grad):
        grads = [value for value in backward(ctx, grad) if value is not None]
        places = [memory_of(value) for value in grads]
        before = [memory_of(value) for value in (grad, *ctx.saved_tensor())]
        for (start, end), (other, after) in [*itertools.combinations(places, 2), *itertools.product(places, before)]:
            if start < after and other < end:
                found.append(type(ctx.operation).__name__)
        return backward(ctx, grad)

    monkeypatch.setattr(maps._Node, "backward", staticmethod(watched))
    return found


@pytest.mark.parametrize("kind", LAYERS)
def test_gradients_share_no_memory(kind, shared):
    for layer in (build(kind, "float32"), frozen(build(kind, "float32"))):
        x = random_map(0, "float32")
        x.stop_gradient = False
        loss(layer(x)).backward()
    assert not shared


def of_a_net(name, seed):
    paddle.seed(0)
    model = ppcls_ext.build(name, class_num=3)
    randomise_norms(model, 0)
    model.train()
    for part in model.sublayers():
        if hasattr(part, "rate"):
            part.rate = 0  # stochastic depth would draw anew
    inputs = [paddle.to_tensor(np.random.RandomState(seed + n).randn(4, 3, 32, 32).astype("float32")) for n in range(2)]
    return model, inputs


FEW = ["MobileOne_S0", "RepVGG_A0", "FasterNet_T0"]
ALL = [pytest.param(name, marks=() if name in FEW else pytest.mark.slow) for name in ppcls_ext.list_models()]


@pytest.mark.parametrize("name", ALL)
def test_every_net_accumulates_and_clips(name, shared):
    # running statistics do not enter gradients in train mode, so that one model serves all passes
    model, inputs = of_a_net(name, 0)
    parameters = [value for value in model.parameters() if not value.stop_gradient]
    single = []
    for x in inputs:
        loss(model(x)).backward()
        single.append([value.grad.numpy() for value in parameters])
        model.clear_gradients(set_to_zero=False)
    for x in inputs:
        loss(model(x)).backward()
    expected = [sum(values) for values in zip(*single)]
    for value, total in zip(parameters, expected):
        assert np.allclose(value.grad.numpy(), total, rtol=1e-4, atol=1e-5 * abs(total).max()), value.name
    norm = np.sqrt(sum((total.astype("float64") ** 2).sum() for total in expected))
    nn.utils.clip_grad_norm_(parameters, 1.0)
    for value, total in zip(parameters, expected):
        assert np.allclose(value.grad.numpy(), total / norm, rtol=1e-3, atol=1e-5 * abs(total).max() / norm), value.name
    assert not shared


VIEWS = {
    "kernel in another order": lambda layer: _transposed(layer.conv.conv.weight, [1, 0, 2, 3]),
    "γ with gaps": lambda layer: _with_gaps(layer.conv.bn.weight),
    "β with gaps": lambda layer: _with_gaps(layer.conv.bn.bias),
    "identity's γ with gaps": lambda layer: _with_gaps(layer.identity.weight),
    "running mean with gaps": lambda layer: _with_gaps(layer.conv.bn._mean),
}


def _transposed(value, axes):
    value.data = paddle.to_tensor(np.ascontiguousarray(value.numpy().transpose(axes))).transpose(axes)


def _with_gaps(value):
    value.data = paddle.to_tensor(np.stack([value.numpy(), np.full(value.shape, 100, "float32")], 1))[:, 0]


@pytest.mark.parametrize("mode", ["train", "frozen", "eval"])
@pytest.mark.parametrize("view", VIEWS)
def test_parameters_that_are_views(view, mode):
    results = []
    for change in (VIEWS[view], lambda layer: None):
        layer = build("dense", "float32")
        change(layer)
        if mode != "train":
            frozen(layer)
        if mode == "eval":
            layer.eval()
        x = random_map(0, "float32")
        x.stop_gradient = False
        y = layer(x)
        loss(y).backward()
        statistics = layer.conv.bn._mean.numpy(), layer.conv.bn._variance.numpy()
        results.append([y.numpy(), x.grad.numpy(), *gradients(layer).values(), *statistics])
    for got, expected in zip(*results):
        assert np.allclose(got, expected, rtol=1e-5, atol=1e-6 * abs(expected).max())


def parameter(length):
    return paddle.create_parameter([length], "float32")


def with_norm(attribute, length):
    def build_it():
        layer = RepConv(8, 64, 3, 2, 1, NAMES)
        if attribute is None:
            layer.conv.bn = nn.BatchNorm2D(length)
        else:
            setattr(layer.conv.bn, attribute, parameter(length))
        layer.train()
        y = layer(paddle.randn([2, 8, 9, 9]))
        y.sum().backward()

    return build_it


WRONG_LENGTHS = {
    **{f"norm of {length}": with_norm(None, length) for length in (1, 4, 80)},
    **{f"{name} of {length}": with_norm(name, length) for name in ("weight", "bias") for length in (1, 4, 80)},
    "bias": lambda: conv2d(paddle.randn([2, 8, 9, 9]), paddle.randn([64, 8, 3, 3]), paddle.randn([4]), 1, 1),
}


@pytest.mark.parametrize("case", WRONG_LENGTHS)
def test_wrong_lengths_are_errors(case):
    with pytest.raises((PpclsExtError, ValueError)):
        WRONG_LENGTHS[case]()


@pytest.mark.parametrize("kind", ["dense", "depthwise", "pointwise", "one branch", "block with ReLU"])
def test_one_value_a_channel_is_left_as_paddle_leaves_it(kind, monkeypatch):
    results = []
    x = random_map(0, "float32")[:1, :, :1, :1].contiguous()
    for own in (True, False):
        with contextlib.nullcontext() if own else by_paddle(monkeypatch):
            layer = build(kind, "float32")
            y = layer(x)
            state = {name: value.numpy() for name, value in layer.state_dict().items()}
            results.append({**state, "y": y.numpy()})
    check(*results, tolerance=1e-6)


def test_more_branches_than_one_primitive_adds():
    layer = RepConv(4, 4, 3, 1, 4, NAMES, conv_branches=40)
    layer.train()
    x = paddle.randn([2, 4, 5, 5])
    x.stop_gradient = False
    loss(layer(x)).backward()
    got = x.grad.numpy()
    x.clear_grad()
    loss(layer.sum_of_branches(x)).backward()
    assert np.allclose(got, x.grad.numpy(), rtol=1e-3, atol=1e-4 * abs(got).max())


def test_a_gate_of_one_channel():
    gate = SqueezeExcite(1, 1, ("reduce", "expand"))
    gate.train()
    x = maps.from_channels_last(paddle.randn([2, 5, 5, 1]))
    expected = x * nn.functional.sigmoid(gate.expand(nn.functional.relu(gate.reduce(gate.pool(x.contiguous())))))
    assert np.allclose(gate(x).numpy(), expected.numpy(), rtol=1e-5)
