"""The kept equivalent convolution is right after every kind of change of what it was folded from."""

from __future__ import annotations

import copy
import ctypes

import numpy as np
import paddle
import pytest
from paddle import nn

import ppcls_ext
from ppcls_ext.layers.conv_norm import ConvNorm
from ppcls_ext.layers.rep_conv import BranchNames, RepConv
from ppcls_ext.reparam import folded
from tests.helpers import randomise_norms, relative

NAMES = BranchNames("conv", "scale", "identity", "fused")


def make():
    paddle.seed(0)
    layer = RepConv(6, 6, 3, 1, 2, NAMES, conv_branches=2)
    randomise_norms(layer, 0)
    layer.eval()
    return layer


def of(layer, x):
    with paddle.no_grad():
        return layer(x).numpy()


def train_once(layer, x):
    layer.train()
    layer(x).sum().backward()
    layer.eval()


def step(make_optimizer):
    def change(layer, x):
        for value in layer.parameters():
            if not value.stop_gradient:
                value.grad = paddle.ones_like(value)
        make_optimizer(layer.parameters()).step()

    return change


def write_to_memory(layer, x):
    tensor = layer.scale.conv.weight
    ctypes.memset(tensor.data_ptr(), 0, 4 * tensor.size)


def swap_memory(layer, x):
    layer.conv[1].bn._variance.data = layer.conv[1].bn._variance.numpy() * 0 + paddle.full([6], 3.0)


def load(layer, x):
    state = {name: value * 2 for name, value in layer.state_dict().items()}
    layer.set_state_dict(state)


def replace(layer, x):
    layer.conv[0].bn.weight = paddle.create_parameter([6], "float32")


def another_epsilon(layer, x):
    layer.identity._epsilon = 0.5


CHANGES = {
    "SGD": step(lambda values: paddle.optimizer.SGD(0.1, parameters=values)),
    "Momentum": step(lambda values: paddle.optimizer.Momentum(0.1, parameters=values)),
    "AdamW": step(lambda values: paddle.optimizer.AdamW(0.1, parameters=values)),
    "set_value": lambda layer, x: layer.conv[0].conv.weight.set_value(paddle.ones([6, 3, 3, 3])),
    "copy_": lambda layer, x: layer.conv[0].bn._mean.copy_(paddle.ones([6]), True),
    "in place": paddle.no_grad()(lambda layer, x: layer.identity.bias.add_(paddle.ones([6]))),
    "one number": paddle.no_grad()(lambda layer, x: layer.conv[1].conv.weight.__setitem__((5, 2, 2, 2), 7.0)),
    "the sign of a zero's neighbour": paddle.no_grad()(
        lambda layer, x: layer.conv[1].conv.weight.multiply_(-x[0, 0, 0, 0])
    ),
    "memory": write_to_memory,
    "another memory": swap_memory,
    "set_state_dict": load,
    "another parameter": replace,
    "epsilon": another_epsilon,
    "a training step's statistics": train_once,
}


@pytest.mark.parametrize("change", CHANGES)
def test_right_after_every_change(change):
    layer, x = make(), paddle.randn([2, 6, 5, 5])
    before = of(layer, x)
    assert np.array_equal(before, of(layer, x))
    CHANGES[change](layer, x)
    after, plain = of(layer, x), layer.sum_of_branches(x).numpy()
    assert relative(before, plain) > 1e-3, "the change changes nothing"
    assert relative(after, plain) < 1e-5
    fresh = copy.deepcopy(layer)
    fresh._folded = None
    assert np.array_equal(after, of(fresh, x))


def test_folded_once(monkeypatch):
    calls, fold = [], folded.fold_branches
    monkeypatch.setattr(folded, "fold_branches", lambda *arguments: calls.append(1) or fold(*arguments))
    layer, x = make(), paddle.randn([2, 6, 5, 5])
    for _ in range(3):
        of(layer, x)
        layer(x).sum().backward()
    assert len(calls) == 1
    layer.train()
    layer(x)
    assert layer._folded is None  # training has no use for the memory
    layer.eval()
    of(layer, x)
    assert len(calls) == 2


def test_fusing_and_copying_leave_nothing_behind():
    layer, x = make(), paddle.randn([2, 6, 5, 5])
    expected = of(layer, x)
    other = copy.deepcopy(layer)
    other.identity.bias.set_value(paddle.full([6], 9.0))
    assert relative(of(other, x), expected) > 1e-2
    assert np.array_equal(of(layer, x), expected)
    layer.re_parameterize()
    assert layer._folded is None
    assert np.array_equal(of(layer, x), expected)


def test_float64_is_folded_each_time():
    layer = make().to(dtype="float64")
    x = paddle.randn([2, 6, 5, 5], dtype="float64")
    assert relative(of(layer, x), layer.sum_of_branches(x).numpy()) < 1e-12
    assert layer._folded is None


def test_the_map_alone_gets_gradients_of_paddles():
    # as for the gradients of several classes: Paddle goes through its own graphs as often as asked
    layer, x = make(), paddle.randn([2, 6, 5, 5])
    for value in layer.parameters():
        value.stop_gradient = True
    x.stop_gradient = False
    y = layer(x)
    first = [paddle.grad(y[:, channel].sum(), [x], retain_graph=True)[0].numpy() for channel in range(2)]
    again = paddle.grad(y[:, 0].sum(), [x])[0].numpy()
    assert np.array_equal(first[0], again)
    assert not np.array_equal(first[0], first[1])


@pytest.mark.parametrize("name", ["MobileOne_S0", "RepVGG_A0", "FasterNet_T0"])
def test_nets_train_with_frozen_normalisations(name):
    paddle.seed(0)
    model = ppcls_ext.build(name, class_num=3)
    model.train()
    for part in model.sublayers():
        if isinstance(part, nn.BatchNorm2D):
            part._momentum = 0.0
    x, labels = paddle.randn([12, 3, 32, 32]), paddle.to_tensor([0, 1, 2] * 4)
    with paddle.no_grad():
        model(x)  # gives the normalisations statistics that fit
    for part in model.sublayers():
        if isinstance(part, nn.BatchNorm2D):
            part.eval()
    before = [value.numpy() for value in model.buffers()]
    # not SGD: its compiled loop (Paddle's phi/kernels/funcs/jit/gen/sgd.cc) ended a process of tests, twice, right here
    clip = nn.ClipGradByGlobalNorm(0.1)
    optimizer = paddle.optimizer.Momentum(3e-4, 0.0, parameters=model.parameters(), grad_clip=clip)
    losses = []
    for _ in range(3):
        loss = nn.functional.cross_entropy(model(x), labels)
        loss.backward()
        optimizer.step()
        optimizer.clear_grad()
        losses.append(float(loss))
    assert losses[2] < losses[0]
    assert all(np.array_equal(value.numpy(), old) for value, old in zip(model.buffers(), before))


def test_one_norm_frozen_and_another_not():
    layer, x = make(), paddle.randn([4, 6, 5, 5])
    layer.train()
    layer.identity.eval()
    expected = copy.deepcopy(layer).sum_of_branches(x)
    assert relative(layer(x).numpy(), expected.numpy()) < 1e-5


def test_a_single_branch():
    layer = ConvNorm(4, 6, 2, 2, ("conv", "norm"))
    randomise_norms(layer, 0)
    layer.eval()
    x = paddle.randn([2, 4, 6, 6])
    expected = layer.norm(layer.conv(x)).numpy()
    assert relative(of(layer, x), expected) < 1e-5
    layer.norm.weight.set_value(paddle.ones([6]))
    assert relative(of(layer, x), layer.norm(layer.conv(x)).numpy()) < 1e-5
