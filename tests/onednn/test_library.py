"""Calls that come in the middle of another one, and what oneDNN has no fast implementation of."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading

import numpy as np
import paddle
import pytest

from ppcls_ext.errors import PpclsExtError
from ppcls_ext.onednn import builders, operations
from ppcls_ext.onednn.builders import Geometry
from ppcls_ext.onednn.find import library
from ppcls_ext.onednn.library import Library, UnsupportedError
from tests.helpers import ROOT, relative

pytestmark = pytest.mark.skipif(library() is None, reason="this Paddle has no oneDNN that can be called")


def test_a_call_inside_a_call_is_refused():
    found = library()
    x = paddle.randn([2, 5, 5, 8])
    with found.lock, pytest.raises(PpclsExtError, match="inside an operation"):
        operations.activate(x, builders.RELU)
    assert float(operations.activate(x, builders.RELU).min()) == 0.0


def test_other_threads_wait():
    found, results = library(), []
    x = paddle.randn([2, 5, 5, 8])
    with found.lock:
        thread = threading.Thread(target=lambda: results.append(operations.activate(x, builders.RELU)))
        thread.start()
        thread.join(0.2)
        assert not results
    thread.join(20)
    assert float(results[0].min()) == 0.0


def test_a_signal_handler_that_runs_a_model_does_no_harm():
    # in a process of its own, which a damaged heap would end
    code = (
        "import signal, paddle, ppcls_ext\n"
        "from ppcls_ext.errors import PpclsExtError\n"
        "small = ppcls_ext.build('FasterNet_T0', class_num=3)\n"
        "model = ppcls_ext.build('RepVGG_A0', class_num=3)\n"
        "x, other = paddle.randn([4, 3, 64, 64]), paddle.randn([2, 3, 96, 96])\n"
        "ran, refused = [], []\n"
        "inside = []\n"
        "def handler(*_):\n"
        "    if inside:\n"
        "        return\n"
        "    inside.append(1)\n"
        "    try:\n"
        "        with paddle.no_grad():\n"
        "            ran.append(float(small(other).sum()))\n"
        "    except PpclsExtError as error:\n"
        "        refused.append(str(error))\n"
        "    finally:\n"
        "        inside.clear()\n"
        "signal.signal(signal.SIGALRM, handler)\n"
        "model(x).sum()\n"
        "signal.setitimer(signal.ITIMER_REAL, 0.02, 0.02)\n"
        "while len(ran) + len(refused) < 20:\n"
        "    y = model(x)\n"
        "signal.setitimer(signal.ITIMER_REAL, 0)\n"
        "assert all('inside an operation' in text for text in refused)\n"
        "model.eval()\n"
        "print('end', bool(paddle.isfinite(model(x)).all()))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.endswith("end True\n")


def test_an_interrupt_while_one_thread_is_set_puts_the_number_back():
    found, before = library(), signal.signal(signal.SIGINT, signal.default_int_handler)
    threads = found.threads()
    try:
        with pytest.raises(KeyboardInterrupt), found.one_thread():
            signal.raise_signal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)
    assert found.threads() == threads


def unsupported(*_, **__):
    raise UnsupportedError("nothing is fast here")


@pytest.fixture
def nothing_is_fast(monkeypatch):
    monkeypatch.setattr(Library, "primitive", unsupported)


def test_without_any_fast_primitive_paddle_computes(nothing_is_fast, monkeypatch):
    paddle.seed(0)
    x, grad, other = (paddle.randn([3, 6, 5, 8]) for _ in range(3))
    gamma, beta, numbers = paddle.randn([8]), paddle.randn([8]), paddle.randn([3, 8])
    cases = {
        "normalise": lambda: operations.normalise(x, gamma, beta, 1e-5),
        "normalise_by": lambda: [operations.normalise_by(x, gamma, gamma * gamma, gamma, beta, 1e-5)],
        "normalise_gradient": lambda: operations.normalise_gradient(x, beta, gamma * gamma, gamma, grad, 1e-5),
        "weighted_sum": lambda: [operations.weighted_sum(x, [beta, other, grad], gamma, relu=True)],
        "sum": lambda: [operations.weighted_sum(x, [other, beta], None)],
        "in place": lambda: [operations.weighted_sum(x.clone(), [other], in_place=True)],
        "many": lambda: [operations.weighted_sum(x, [other] * 60, gamma)],
        "by_picture": lambda: [
            operations.by_picture(x, numbers, True, other),
            operations.by_picture(x, numbers, False),
        ],
        "relu": lambda: [operations.activate(x, builders.RELU), operations.activate_gradient(x, grad, builders.RELU)],
        "gelu": lambda: [operations.activate(x, builders.GELU), operations.activate_gradient(x, grad, builders.GELU)],
        "channels_last": lambda: [operations.channels_last(x)],
    }
    for kernel, geometry in (
        (paddle.randn([8, 8, 3, 3]), Geometry(1, 1)),
        (paddle.randn([8, 4, 3, 3]), Geometry(2, 1, 2)),
        (paddle.randn([8, 1, 3, 3]), Geometry(1, 1, 8)),
    ):
        y_shape = geometry.output_shape(x.shape, kernel.shape)
        y_grad = paddle.randn(y_shape)
        cases[f"convolve {geometry}"] = lambda k=kernel, g=geometry, d=y_grad: [
            operations.convolve(x, k, None, g),
            operations.convolve(x, k, beta, g),
            operations.input_gradient(d, k, x.shape, g),
            operations.kernel_gradient(x, d, k.shape, g),
        ]
    first = paddle.randn([4, 4, 3, 3])
    cases["convolve_first"] = lambda: [
        operations.convolve_first(x, first, Geometry(1, 1)),
        operations.input_gradient_first(grad, first, Geometry(1, 1)),
        operations.kernel_gradient_first(x, grad, first.shape, Geometry(1, 1)),
    ]
    slow = {name: case() for name, case in cases.items()}
    monkeypatch.undo()
    for name, case in cases.items():
        for got, expected in zip(slow[name], case()):
            assert relative(got, expected) < 1e-5, name


@pytest.mark.parametrize("sign", ["one sign", "both signs"])
def test_gradients_of_normalisations_over_many_pixels(sign):
    # one long float32 sum is off by 3e-3 here
    random = np.random.RandomState(0)
    x = random.randn(3, 1000, 1000, 1).astype("float32")
    grad = random.rand(3, 1000, 1000, 1).astype("float32") + 0.5
    grad = (np.sign(x) * grad if sign == "one sign" else grad).astype("float32")
    mean, variance = x.mean(dtype="float64"), x.var(dtype="float64")
    centred = (x.astype("float64") - mean) / np.sqrt(variance + 1e-5)
    expected = (grad * centred).sum(), grad.sum(dtype="float64")
    tensors = [paddle.to_tensor(np.asarray([value], "float32")) for value in (mean, variance)]
    results = operations.normalise_gradient(
        paddle.to_tensor(x), *tensors, paddle.ones([1]), paddle.to_tensor(grad), 1e-5
    )
    for got, value in zip(results[1:], expected):
        assert abs(got.item() - value) <= 2e-6 * np.abs(grad * centred).sum()
    of_x = (grad - expected[1] / x.size - centred * expected[0] / x.size) / np.sqrt(variance + 1e-5)
    assert relative(results[0], of_x) < 1e-5


RETAIN = (
    "import paddle, ppcls_ext\n"
    "model = ppcls_ext.build('{name}', class_num=3)\n"
    "model.{mode}()\n"
    "y = model(paddle.randn([4, 3, 64, 64])).sum()\n"
    "y.backward(retain_graph=True)\n"
    "y.backward()\n"
)


@pytest.mark.parametrize("mode", ["train", "eval"])
@pytest.mark.parametrize("name", ["MobileOne_S0", "RepVGG_A0", "FasterNet_T0"])
def test_going_twice_through_a_graph_is_refused(name, mode):
    # in a process of its own: Paddle would end it with a segmentation fault
    code = RETAIN.format(name=name, mode=mode)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=120)
    assert done.returncode == 1, done.stderr[-2000:]
    assert "cannot be gone through twice" in done.stderr
