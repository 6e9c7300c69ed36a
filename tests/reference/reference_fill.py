"""Deterministic, framework-independent parameter values for reference checks.

Every tensor is drawn from its own NumPy PCG64 stream, seeded by the CRC-32 of its
name in the official PyTorch implementation, so any framework that knows the official
name and shape can rebuild exactly the same network without storing its weights.
"""

import zlib

import numpy as np


def _rng(name: str) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(zlib.crc32(name.encode())))


def fill(name: str, shape: tuple, gain: float) -> np.ndarray:
    """Value of the tensor `name` (official PyTorch name, PyTorch layout) as float64.

    Conv weights (O, I/groups, kH, kW) and linear weights (out, in): N(0, 1/fan_in).
    1-D tensors: batch-norm gamma gain*U(0.5, 1) with one sign in eight negative,
    running_var U(0.5, 1.5), everything else (beta, bias, running_mean) N(0, 0.1**2).
    `gain` is stored with each reference; it keeps activations O(1) through the network.
    """
    rng = _rng(name)
    if len(shape) >= 2:
        fan_in = int(np.prod(shape[1:]))
        return rng.standard_normal(shape) / np.sqrt(fan_in)
    if name.endswith("running_var"):
        return rng.uniform(0.5, 1.5, shape)
    if name.endswith("weight"):
        sign = np.where(rng.uniform(size=shape) < 0.125, -1.0, 1.0)
        return sign * rng.uniform(0.5, 1.0, shape) * gain
    return 0.1 * rng.standard_normal(shape)


def reference_input(size: int = 64, batch: int = 2) -> np.ndarray:
    """Images of shape (batch, 3, size, size), float64, N(0, 1)."""
    return _rng(f"input_{batch}x3x{size}x{size}").standard_normal((batch, 3, size, size))
