"""What several test modules need."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Container
from pathlib import Path

import numpy as np
import paddle
import pytest
from paddle import nn

from ppcls_ext.config.settings import RunSettings
from ppcls_ext.reparam.reparameterizable import Reparameterizable

ROOT = Path(__file__).resolve().parents[1]

#: For tests that convert to ONNX.
needs_converter = pytest.mark.skipif(
    importlib.util.find_spec("paddle2onnx") is None, reason="needs paddle2onnx, which has no wheel for Python 3.13"
)


def tool(name, *arguments, folder, checkout=None):
    """Runs tools/NAME from another working directory, on the installed PaddleClas or on a checkout."""
    command = [sys.executable, str(ROOT / "tools" / name), *map(str, arguments)]
    environment = {**os.environ, "COLUMNS": "200"}
    environment.pop("PADDLECLAS_HOME", None)
    if checkout is not None:
        environment["PADDLECLAS_HOME"] = checkout
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, env=environment)
    assert done.returncode == 0, f"{name}: {done.stdout[-2000:]}\n{done.stderr[-2000:]}"
    return done


def prepared(config: dict, mode: str) -> dict:
    """The configuration as PaddleClas takes it."""
    from ppcls_ext.config.prepare import prepare

    return prepare(RunSettings(config), mode).config


def build_engine(config: dict, mode: str = "train"):
    """The engine of a configuration, which stays as it is; the models must be registered."""
    from ppcls_ext.training.engine import Engine

    return Engine(RunSettings(config), mode)


def sample_pictures(shared: Path) -> list[tuple[Path, int]]:
    """The 20 ImageNet pictures of val_list.txt, each with its class."""
    folder = shared / "imagenet_samples"
    lines = (line.rsplit(" ", 1) for line in (folder / "val_list.txt").read_text().splitlines())
    return [(folder / name, int(label)) for name, label in lines]


def wait_for(text, log, process):
    """Waits until PaddleClas's log of a running training holds `text`."""
    while text not in (log.read_text(encoding="utf-8") if log.exists() else ""):
        assert process.poll() is None, f"it ended before {text}"
        time.sleep(0.02)


def die_at(step: int, act: Callable[[], object], events: Container[str]) -> bool:
    """Runs `act` in a process that kills itself before its operation number `step`; returns whether it was killed.

    `events`: the operations that are counted, by the names of Python's audit events.
    """
    child = os.fork()
    if child == 0:
        left = step

        def count(event: str, _: object) -> None:
            nonlocal left
            if event in events:
                left -= 1
                if left < 0:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(count)
        try:
            act()
        finally:
            os._exit(0)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


def relative(got, expected) -> float:
    """Largest difference, relative to the largest expected value."""
    got, expected = np.asarray(got, "float64"), np.asarray(expected, "float64")
    assert got.shape == expected.shape
    return float(np.abs(got - expected).max() / np.abs(expected).max())


@contextlib.contextmanager
def float64():
    """Builds everything inside in float64."""
    before = paddle.get_default_dtype()
    paddle.set_default_dtype("float64")
    try:
        yield
    finally:
        paddle.set_default_dtype(before)


@contextlib.contextmanager
def branch_by_branch():
    """Inside, unfused layers are computed as they are defined, with one operation per branch, in eval mode too.

    Without it, a fused layer would be compared with the equivalent convolution that unfused ones run in eval mode.
    """
    Reparameterizable.by_definition = True
    try:
        yield
    finally:
        Reparameterizable.by_definition = False


def randomise_norms(model: nn.Layer, seed: int) -> None:
    """Gives every batch normalisation random γ (of both signs), β, mean and variance.

    A wrong mean or β, or a forgotten γ, would not show with the initial 1, 0, 0, 1.
    """
    rng = np.random.default_rng(seed)
    for layer in model.sublayers(include_self=True):
        if isinstance(layer, nn.BatchNorm2D):
            channels = layer.weight.shape
            sign = np.where(rng.uniform(size=channels) < 0.3, -1, 1)
            for tensor, value in (
                (layer.weight, sign * rng.uniform(0.5, 1.0, channels)),
                (layer.bias, rng.normal(0, 0.2, channels)),
                (layer._mean, rng.normal(0, 0.2, channels)),
                (layer._variance, rng.uniform(0.5, 1.5, channels)),
            ):
                tensor.set_value(paddle.to_tensor(value).astype(tensor.dtype))
