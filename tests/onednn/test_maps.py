"""Maps that are views of channels-last memory, and the node that they are recorded with."""

from __future__ import annotations

import functools
import subprocess
import sys

import paddle
import pytest
from paddle import nn

from ppcls_ext.layers.squeeze_excite import SqueezeExcite
from ppcls_ext.onednn.convolution import conv2d
from ppcls_ext.onednn.elementwise import add, gelu, relu
from ppcls_ext.onednn.find import library
from ppcls_ext.onednn.maps import elementwise, from_channels_last, is_channels_last, to_channels_last
from tests.helpers import ROOT, relative


def test_there_and_back_without_a_copy():
    x = paddle.randn([2, 3, 4, 5])
    rows = to_channels_last(x)
    view = from_channels_last(rows)
    assert rows.shape == [2, 4, 5, 3]
    assert rows.is_contiguous()
    assert bool((view == x).all())
    assert is_channels_last(view)
    assert not is_channels_last(x)
    assert to_channels_last(view).data_ptr() == rows.data_ptr()


def test_elementwise_keeps_the_order_of_memory():
    view = from_channels_last(paddle.randn([2, 4, 5, 3]))
    gate = paddle.rand([2, 3, 1, 1])
    result = elementwise(paddle.multiply, view, gate)
    assert is_channels_last(result)
    assert bool((result == view.contiguous() * gate).all())
    assert not is_channels_last(elementwise(paddle.nn.functional.relu, view.contiguous()))


@pytest.mark.parametrize(
    "function",
    [
        lambda x: relu(x, training=True),
        lambda x: gelu(x, training=True),
        lambda x: add(x, x * 2, training=True),
        SqueezeExcite(8, 2, ("reduce", "expand")),
    ],
)
def test_one_result_in_both_orders(function):
    paddle.seed(0)
    value = paddle.randn([2, 3, 4, 8])
    results = []
    for contiguous in (False, True):
        x = value.clone().detach()
        x.stop_gradient = False
        view = from_channels_last(x)
        y = function(view.contiguous() if contiguous else view)
        (y**2).sum().backward()
        results.append((y.contiguous(), x.grad))
    for one, other in zip(*results):
        assert relative(one, other) < 1e-5


def operands():
    paddle.seed(0)
    x, kernel = paddle.randn([2, 4, 5, 6]), paddle.randn([3, 4, 3, 3])
    x.stop_gradient = kernel.stop_gradient = False
    return x, kernel


@pytest.mark.parametrize("wanted", [(0,), (1,), (0, 1)])
def test_gradients_of_some_inputs_only(wanted):
    results = []
    for convolve in (functools.partial(conv2d, training=True), nn.functional.conv2d):
        inputs = operands()
        y = convolve(inputs[0] * 1, inputs[1] * 1)
        results.append(paddle.grad((y**2).sum(), [inputs[index] for index in wanted]))
    assert all(relative(one, other) < 1e-5 for one, other in zip(*results))


def test_gradients_of_gradients_are_refused():
    # in a process of its own: Paddle does not recover from an error inside `paddle.grad`
    code = (
        "import paddle\n"
        "from ppcls_ext.onednn.convolution import conv2d\n"
        "x, kernel = paddle.randn([1, 2, 4, 4]), paddle.randn([2, 2, 3, 3])\n"
        "x.stop_gradient = False\n"
        "paddle.grad((conv2d(x, kernel, training=True) ** 2).sum(), [x], create_graph=True)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    assert "PPCLS_EXT_ONEDNN=0" in done.stderr


def test_eval_mode_leaves_gradients_to_paddle():
    x, kernel = operands()
    loss = (conv2d(x, kernel) ** 2).sum()
    loss.backward(retain_graph=True)
    once = x.grad.clone()
    loss.backward()
    assert relative(x.grad, 2 * once) < 1e-6


@pytest.mark.skipif(library() is None, reason="this Paddle has no oneDNN that can be called")
@pytest.mark.parametrize("changed", ["input", "kernel", "result"])
def test_changes_in_place_before_the_gradient_are_refused(changed):
    # in a process of its own, as above
    code = (
        "import paddle\n"
        "from ppcls_ext.onednn.convolution import conv2d\n"
        "from ppcls_ext.onednn.elementwise import relu\n"
        "x, kernel = paddle.randn([1, 2, 4, 4]), paddle.randn([2, 2, 3, 3])\n"
        "x.stop_gradient = kernel.stop_gradient = False\n"
        "input, kernel = x * 1, kernel * 1\n"
        "result = relu(conv2d(input, kernel, training=True), training=True)\n"
        f"{changed}.add_(paddle.to_tensor(1.0))\n"
        "result.sum().backward()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    assert "changed in place" in done.stderr
