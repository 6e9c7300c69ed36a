"""Convolution by oneDNN against Paddle's own: results, gradients, and when it keeps out of the way."""

from __future__ import annotations

import functools
import multiprocessing
import os
import threading

import numpy as np
import paddle
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from paddle import nn

from ppcls_ext.onednn import find, library, operations
from ppcls_ext.onednn.convolution import conv2d, plain_geometry, run_conv
from ppcls_ext.onednn.maps import is_channels_last, usable
from tests.helpers import relative

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
pytestmark = pytest.mark.skipif(find.library() is None, reason="this Paddle has no oneDNN that can be called")

# N, C, H, W, O, k, stride, padding, groups
SHAPES = [
    (2, 3, 32, 30, 40, 4, 4, 0, 1),
    (2, 40, 8, 6, 80, 2, 2, 0, 1),
    (3, 3, 17, 15, 48, 3, 2, 1, 1),
    (3, 8, 7, 5, 8, 3, 1, 1, 8),
    (3, 48, 9, 8, 48, 3, 2, 1, 48),
    (1, 5, 1, 1, 7, 1, 1, 0, 1),
    (2, 24, 5, 3, 12, 3, 1, 1, 4),
    (2, 10, 6, 6, 10, 3, 1, 1, 1),
    (2, 6, 5, 5, 12, 3, 1, 1, 6),
    (4, 16, 3, 9, 16, 5, 2, 2, 16),
    (5, 16, 1, 1, 16, 3, 1, 1, 16),
    (5, 16, 2, 2, 16, 3, 1, 1, 16),
    (5, 16, 2, 1, 16, 5, 2, 2, 16),
    (5, 16, 1, 4, 16, 3, 2, 1, 16),
    (64, 128, 2, 2, 128, 3, 1, 1, 128),
    (64, 128, 3, 2, 128, 3, 2, 1, 128),
    (64, 64, 1, 5, 64, 3, 2, 1, 64),
    (64, 64, 4, 4, 64, 5, 1, 2, 64),
    (64, 64, 3, 4, 64, 5, 2, 1, 64),
]


trained = functools.partial(conv2d, training=True)


def random(shape, seed=0):
    paddle.seed(seed)
    batch, channels, height, width, outputs, size, _, _, groups = shape
    x = paddle.randn([batch, channels, height, width])
    kernel = paddle.randn([outputs, channels // groups, size, size])
    return x, kernel, paddle.randn([outputs])


def run(convolve, inputs, shape):
    inputs = [value.clone().detach() for value in inputs]
    for value in inputs:
        value.stop_gradient = False
    y = convolve(*inputs, *shape[6:8], groups=shape[8])
    paddle.seed(1)
    (y * paddle.randn(y.shape)).sum().backward()
    return [y, *(value.grad for value in inputs)]


def check(shape):
    inputs = random(shape)
    ours, paddles = run(trained, inputs, shape), run(nn.functional.conv2d, inputs, shape)
    for one, other in zip(ours, paddles):
        assert one.shape == other.shape
        assert float((one - other).abs().max()) <= 1e-5 * float(other.abs().max()) + 5e-6


@pytest.mark.parametrize("shape", SHAPES)
def test_equal_to_paddles(shape):
    check(shape)


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_equal_to_paddles_for_any_shape(data):
    def whole(low, high):
        return data.draw(st.integers(low, high))

    size, stride, groups = whole(1, 5), whole(1, 3), whole(1, 4)
    padding = whole(0, size // 2)
    smallest = max(1, size - 2 * padding)
    sides = whole(smallest, 12), whole(smallest, 12)
    check((whole(1, 4), groups * whole(1, 6), *sides, groups * whole(1, 6), size, stride, padding, groups))


def test_onednn_does_compute_it(monkeypatch):
    calls = []
    original = operations.convolve
    monkeypatch.setattr(operations, "convolve", lambda *arguments: calls.append(1) or original(*arguments))
    conv = nn.Conv2D(3, 8, 3, padding=1)
    with paddle.no_grad():
        y = run_conv(conv, paddle.randn([1, 3, 6, 5]))
    assert calls
    assert is_channels_last(y)


@pytest.mark.parametrize("cut", [np.s_[:, 1:4], np.s_[1:], np.s_[:, :, ::2], np.s_[:, :, :, 2:7]])
def test_views_are_read_right(cut):
    x = paddle.randn([3, 5, 8, 9])
    part = x[cut]
    kernel = paddle.randn([4, part.shape[1], 3, 3])
    for value in (part, part.transpose([0, 1, 3, 2]), paddle.flip(part, [2])):
        assert relative(conv2d(value, kernel, None, 1, 1), nn.functional.conv2d(value, kernel, None, 1, 1)) < 1e-5
    turned = paddle.randn([part.shape[1], 4, 3, 3]).transpose([1, 0, 2, 3])
    assert relative(conv2d(part, turned), nn.functional.conv2d(part, turned)) < 1e-5


@pytest.mark.parametrize(
    "conv",
    [
        nn.Conv2D(4, 4, 3, dilation=2),
        nn.Conv2D(4, 4, 3, padding="same"),
        nn.Conv2D(4, 4, 3, padding=[1, 0]),
        nn.Conv2D(4, 4, 3, stride=(1, 2)),
        nn.Conv2D(4, 4, 3, padding=1, padding_mode="reflect"),
        nn.Conv2DTranspose(4, 4, 3),
    ],
)
def test_other_convolutions_are_left_to_paddle(conv):
    x = paddle.randn([1, 4, 9, 8])
    assert plain_geometry(conv) is None
    assert bool((run_conv(conv, x) == conv(x)).all())


def test_a_watched_convolution_is_left_to_paddle():
    conv = nn.Conv2D(4, 4, 3)
    seen = []
    conv.register_forward_post_hook(lambda *_: seen.append(1))
    run_conv(conv, paddle.randn([1, 4, 9, 8]))
    assert seen


def test_where_it_keeps_out(monkeypatch):
    x = paddle.randn([1, 4, 6, 6])
    assert usable(x, training=True)
    assert not usable(x.astype("float64"), training=True)
    assert not usable(x[:0], training=True)
    with monkeypatch.context() as patch:
        patch.setattr(paddle.device, "get_device", lambda: "gpu:0")
        assert not usable(x, training=True)
    try:
        monkeypatch.setenv(find.VARIABLE, "0")
        find._search.cache_clear()
        assert not usable(x, training=True)
        assert conv2d(x, paddle.randn([2, 4, 3, 3])).is_contiguous()
    finally:
        monkeypatch.undo()
        find._search.cache_clear()


@pytest.mark.parametrize("damage", ["version", "missing", "platform", "function", "wrong"])
def test_another_library_is_not_used(monkeypatch, tmp_path, damage):
    if damage == "version":
        monkeypatch.setattr(library, "_MAJOR", 4)
    elif damage == "missing":
        monkeypatch.setattr(find, "_FILES", {"linux": ("libdnnl.so.4", "libiomp5.so")})
    elif damage == "platform":
        monkeypatch.setattr(find, "_FILES", {})
    elif damage == "function":
        monkeypatch.setattr(library.Library, "make", lambda *_: (_ for _ in ()).throw(AttributeError("no function")))
    else:
        monkeypatch.setattr(find, "TOLERANCE", -1.0)
    find._search.cache_clear()
    try:
        if damage == "wrong":
            with pytest.warns(UserWarning, match="does not compute as Paddle"):
                assert find.library() is None
        else:
            assert find.library() is None
    finally:
        monkeypatch.undo()
        find._search.cache_clear()


def test_few_primitives_are_kept(monkeypatch):
    monkeypatch.setattr(library, "CAPACITY", 3)
    find._search.cache_clear()
    try:
        for side in range(5, 12):
            check((1, 4, side, side, 4, 3, 1, 1, 1))
        assert len(find.library().primitives) == 3
    finally:
        find._search.cache_clear()


def test_threads_that_begin_together_share_one_library():
    find._search.cache_clear()
    found, begin = [], threading.Barrier(4)

    def work():
        begin.wait()
        found.append(find.library())

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [find.library()] * 4


def test_threads_do_not_disturb_each_other():
    inputs = {shape: random(shape) for shape in SHAPES}
    expected = {shape: nn.functional.conv2d(*inputs[shape], *shape[6:8], groups=shape[8]) for shape in SHAPES}
    wrong = []

    def work():
        for shape in SHAPES * 5:
            y = conv2d(*inputs[shape], *shape[6:])
            if relative(y, expected[shape]) > 1e-5:
                wrong.append(shape)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def _in_child(shape, queue):
    inputs = random(shape)
    queue.put(relative(conv2d(*inputs, *shape[6:]), nn.functional.conv2d(*inputs, *shape[6:8], groups=shape[8])))


@needs_fork
def test_a_forked_process_computes_too():
    # as the workers of a DataLoader are made; they seldom convolve, but must not hang
    check(SHAPES[3])
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=_in_child, args=(SHAPES[3], queue))
    child.start()
    assert queue.get(timeout=60) < 1e-5
    child.join()


@needs_fork
def test_a_fork_while_a_thread_computes():
    check(SHAPES[3])
    held, done = threading.Event(), threading.Event()

    def hold():
        with find.library().lock:
            held.set()
            done.wait(60)

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait(60)
    try:
        context = multiprocessing.get_context("fork")
        queue = context.Queue()
        child = context.Process(target=_in_child, args=(SHAPES[3], queue))
        child.start()
        assert queue.get(timeout=30) < 1e-5
    finally:
        done.set()
        thread.join()
        child.kill()
        child.join()
