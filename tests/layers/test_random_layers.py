"""Random layers on random maps against float64: forward, gradients, running statistics, some parameters frozen."""

from __future__ import annotations

import time

import numpy as np
import paddle
import pytest
from paddle import nn

from ppcls_ext.layers.conv_norm import ConvNorm
from ppcls_ext.layers.rep_conv import BranchNames, RepConv
from ppcls_ext.layers.squeeze_excite import SqueezeExcite
from ppcls_ext.models.fasternet import GELU, FasterNetBlock
from ppcls_ext.onednn import find

NAMES = BranchNames("conv", "scale", "identity", "fused")
SECONDS = 40


class Gated(nn.Layer):
    def __init__(self, channels, squeezed):
        super().__init__()
        self.conv = RepConv(channels, channels, 1, 1, 1, NAMES)
        self.gate = SqueezeExcite(channels, squeezed, ("reduce", "expand"))

    def forward(self, x):
        return self.gate(self.conv(x))


def draw(random):
    """How to make a layer, a line that says which, and two maps (N, C, H, W) for it."""
    batch = int(random.choice([2, 3, 33, 40]))
    height, width = int(random.choice([1, 2, 3, 5, 7, 16, 40])), int(random.choice([1, 2, 3, 5, 9, 16]))
    kind = random.choice(["rep", "rep", "rep", "one branch", "gated", "block"])
    if kind == "rep":
        size, stride, groups = (int(random.choice(values)) for values in ([1, 3, 3, 5], [1, 1, 2], [1, 1, 2, 4]))
        channels, outputs = groups * int(random.randint(1, 13)), groups * int(random.randint(1, 13))
        if random.rand() < 0.35:
            outputs = channels
        if random.rand() < 0.3:
            groups = outputs = channels
        branches = random.choice([None, 1, 2, 4])
        arguments = channels, outputs, size, stride, groups, NAMES, branches
        make = lambda: RepConv(*arguments)  # noqa: E731
    elif kind == "one branch":
        size, stride = int(random.choice([1, 2, 4])), int(random.choice([1, 2, 4]))
        channels = int(random.randint(1, 30))
        height, width = max(height, size), max(width, size)
        arguments = channels, int(random.randint(1, 30)), size, stride, ("a", "b")
        make = lambda: ConvNorm(*arguments)  # noqa: E731
    elif kind == "gated":
        channels = int(random.randint(2, 40))
        arguments = channels, int(random.randint(1, 8))
        make = lambda: Gated(*arguments)  # noqa: E731
    else:
        channels = 4 * int(random.randint(1, 13))
        arguments = channels, random.choice([GELU, nn.ReLU]), 0.0, False
        make = lambda: FasterNetBlock(*arguments)  # noqa: E731
    spread = float(random.choice([0, 1, 10]))
    maps = [
        (random.randn(batch, channels, height, width) + spread * random.randn(1, channels, 1, 1)).astype("float32")
        for _ in range(2)
    ]
    return make, f"{kind} {arguments} on {maps[0].shape}", maps


def run(make, maps, dtype, of_input, frozen):
    paddle.seed(5)
    layer, random = make(), np.random.RandomState(9)
    trained = [value for value in layer.parameters() if not value.stop_gradient]
    for value in trained:
        numbers = random.randn(*value.shape) * 0.4 + (0.8 if value.ndim == 1 else 0)
        value.set_value(numbers.astype("float32"))
    layer.to(dtype=dtype)
    layer.train()
    trained = [value for value in layer.parameters() if not value.stop_gradient]
    for number in frozen:
        trained[number % len(trained)].stop_gradient = True
    results = {}
    for number, values in enumerate(maps):
        x = paddle.to_tensor(values).astype(dtype)
        x.stop_gradient = not of_input
        y = layer(x)
        results[f"output {number}"] = y.numpy()
        if not y.stop_gradient:
            # gradients are added up over both maps
            (y * paddle.to_tensor(np.random.RandomState(3).randn(*y.shape)).astype(dtype)).sum().backward()
        if of_input:
            results[f"input gradient {number}"] = x.grad.numpy()
    for name, value in layer.named_parameters():
        if value.grad is not None:
            results[f"gradient of {name}"] = value.grad.numpy()
    statistics = (pair for pair in layer.state_dict().items() if pair[0].endswith(("_mean", "_variance")))
    return {**results, **{name: value.numpy() for name, value in statistics}}


@pytest.mark.slow
@pytest.mark.skipif(find.library() is None, reason="this Paddle has no oneDNN that can be called")
def test_random_layers(monkeypatch):
    seed = int(time.time())
    random, count, end = np.random.RandomState(seed % 2**31), 0, time.monotonic() + SECONDS
    while time.monotonic() < end:
        make, text, maps = draw(random)
        of_input, frozen = random.rand() < 0.6, random.randint(0, 20, int(random.choice([0, 0, 1, 3])))
        got = run(make, maps, "float32", of_input, frozen)
        with monkeypatch.context() as patch:
            patch.setenv(find.VARIABLE, "0")
            find.library.cache_clear()
            exact, usual = (run(make, maps, dtype, of_input, frozen) for dtype in ("float64", "float32"))
        find.library.cache_clear()
        # Paddle itself leaves out gradients of β where γ is frozen
        assert set(exact) <= set(got), (seed, text)
        largest = max(abs(value).max() for name, value in exact.items() if "gradient" in name or "output" in name)
        for name, value in exact.items():
            scale = max(abs(value).max(), 1e-2 * largest if "gradient" in name else 0) + 1e-6
            error, allowed = (abs(values[name] - value).max() / scale for values in (got, usual))
            assert error <= max(1e-3, 20 * allowed), (seed, text, name, error, allowed)
        count += 1
    assert count > 5
    print(f"{count} layers, seed {seed}")
