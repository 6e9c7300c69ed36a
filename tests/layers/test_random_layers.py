"""Random layers on random maps against float64: forward, gradients, running statistics, some parameters frozen."""

from __future__ import annotations

import time
from contextlib import contextmanager

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


@contextmanager
def ties(monkeypatch):
    """Yields a list that gets, of each ReLU, how near to zero its map comes, relative to the map's largest number."""
    nearest, relu = [], nn.functional.relu

    def watched(x, name=None):
        sizes = abs(x.numpy())
        nearest.append(sizes.min() / sizes.max())
        return relu(x, name)

    with monkeypatch.context() as patch:
        patch.setattr(nn.functional, "relu", watched)
        yield nearest


def difference(value, exact, scale, of_ties):
    """The largest difference, relative to `scale`; where a number may lie on ReLU's other side, that of the norms."""
    if not of_ties:
        return abs(value - exact).max() / scale
    return np.linalg.norm(value - exact) / (np.linalg.norm(exact) + scale)


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
            find._search.cache_clear()
            with ties(monkeypatch) as nearest:
                exact = run(make, maps, "float64", of_input, frozen)
            usual = run(make, maps, "float32", of_input, frozen)
        find._search.cache_clear()
        # Paddle itself leaves out gradients of β where γ is frozen
        assert set(exact) <= set(got), (seed, text)
        largest = max(abs(value).max() for name, value in exact.items() if "gradient" in name or "output" in name)
        # so near to zero float32 has the sign of some numbers wrong, and ReLU's gradient jumps there
        tie = min(nearest, default=1.0) < 1e-5
        errors = {}
        for name, value in exact.items():
            of_ties = tie and "gradient" in name
            if of_ties and maps[0].size < 10_000:  # one jump may be all of the gradient
                continue
            scale = max(abs(value).max(), 1e-2 * largest if "gradient" in name else 0) + 1e-6
            errors[name] = [difference(values[name], value, scale, of_ties) for values in (got, usual)]
        # of few numbers a channel the gradients all but cancel: which of them float32 gets wrong is chance
        y = exact["output 0"]
        usual_bound = 1e-3 if y.size >= 8 * y.shape[1] else 2e-2
        for words in ("gradient", "output", "_mean", "_variance"):
            of_these = {name: pair for name, pair in errors.items() if words in name}
            allowed = 20 * max((usual_error for _, usual_error in of_these.values()), default=0.0)
            for name, (error, _) in of_these.items():
                bound = 0.05 if tie and words == "gradient" else usual_bound
                assert error <= max(bound, allowed), (seed, text, name, error, allowed)
        count += 1
    assert count > 5
    print(f"{count} layers, seed {seed}")
