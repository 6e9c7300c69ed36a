"""Sums, means and variances of a map's channels, without the rounding of one long sum.

oneDNN and BLAS add the pixels of a channel one after the other, whose rounding grows with their number: over 100,000
pixels the fifth digit is lost, and the normalisation of a channel that is nearly constant multiplies that by up to
1 / √ε. Sums of sums keep what Paddle's own operations keep.
"""

from __future__ import annotations

import ctypes
import functools
import math

import numpy as np
import paddle
from paddle import Tensor

from ppcls_ext.onednn import builders, by_paddle
from ppcls_ext.onednn.arena import empty
from ppcls_ext.onednn.bfloat16 import has_primitives, to_float32
from ppcls_ext.onednn.find import loaded
from ppcls_ext.onednn.library import Primitive, UnsupportedError
from ppcls_ext.onednn.memory import address, is_half

#: Pixels in one sum at most.
LONGEST = 1024
#: Pixels that are read at a time, to stay in the processor's cache, and the sums that they are divided into.
PIECE, PARTS = 4096, 32
#: Pixels in one of the sums of `channel_sums`.
ADDENDS = 256


def channel_sums(x: Tensor) -> Tensor:
    """Over all pixels: (N, H, W, C) → (C,)."""
    if is_half(x):
        return mean_and_variance(x)[0] * math.prod(x.shape[:3])  # needs no float32 copy of the map
    # products with ones are several times faster than Paddle's sum
    rows, channels = x.reshape([-1, x.shape[3]]), x.shape[3]
    single = rows.shape[0] % ADDENDS
    sums = paddle.matmul(_ones(single), rows[:single]) if single else None
    if rows.shape[0] > single:
        parts = paddle.matmul(_ones(ADDENDS), rows[single:].reshape([ADDENDS, -1])).reshape([-1, channels])
        whole = paddle.matmul(_ones(parts.shape[0]), parts)
        sums = whole if sums is None else sums + whole
    return sums


def image_sums(x: Tensor) -> Tensor:
    """Over the pixels of each image: (N, H, W, C) → (N, C)."""
    batch, height, width, channels = x.shape
    x = to_float32(x)
    rows = paddle.matmul(_ones(height), x.reshape([batch, height, width * channels]))
    return paddle.matmul(_ones(width), rows.reshape([batch, width, channels]))


def mean_and_variance(x: Tensor) -> tuple[Tensor, Tensor]:
    """Of each channel, (C,), the variance biased; `x: (N, H, W, C)`. Reads the map once."""
    if is_half(x) and not has_primitives():
        x = to_float32(x)
    channels, pixels, numbers = x.shape[3], math.prod(x.shape[:3]), x.element_size()
    pieces, shares = _pieces(pixels)
    ones = _ones(PARTS * channels).data_ptr()
    normalised = empty([PIECE * channels], numbers)
    parts_of = np.empty([2, len(shares), channels], np.float32)
    start = address(x, pixels * channels, numbers=numbers)
    of_means, of_variances = parts_of[0].ctypes.data, parts_of[1].ctypes.data
    try:
        for size, parts in pieces:
            primitive = _piece(size, parts, channels, 1.0, False, numbers)
            primitive(start, ones, ones, normalised.data_ptr(), of_means, of_variances)
            start += numbers * channels * size
            of_means += 4 * channels * parts
            of_variances += 4 * channels * parts
    except UnsupportedError:
        return by_paddle.mean_and_variance(to_float32(x))
    means, variances = parts_of
    mean = shares @ means
    variance = shares @ (variances + np.square(means - mean))
    return _tensor(mean), _tensor(variance)


def normalisation_sums(
    x: Tensor, grad: Tensor, mean: Tensor, variance: Tensor, epsilon: float
) -> tuple[Tensor, Tensor]:
    """Gradients of γ and β of a batch normalisation: sums of `grad · (x − mean) / √(variance + ε)` and `grad`, (C,).

    `x, grad: (N, H, W, C)`. Reads the maps once.
    """
    if is_half(x) and not has_primitives():
        x, grad = to_float32(x), to_float32(grad)
    channels, pixels, numbers = x.shape[3], math.prod(x.shape[:3]), x.element_size()
    pieces, shares = _pieces(pixels)
    ones = _ones(PARTS * channels).data_ptr()
    means, variances = (value.tile([PARTS]) for value in (mean, variance))
    unused = empty([PIECE * channels], numbers)
    sums = np.empty([2, len(shares), channels], np.float32)
    x_start, grad_start = (address(value, pixels * channels, numbers=numbers) for value in (x, grad))
    of_gamma, of_beta = sums[0].ctypes.data, sums[1].ctypes.data
    statistics = address(means, PARTS * channels), address(variances, PARTS * channels)
    try:
        for size, parts in pieces:
            primitive = _piece(size, parts, channels, epsilon, True, numbers)
            primitive(x_start, *statistics, grad_start, ones, unused.data_ptr(), of_gamma, of_beta)
            x_start += numbers * channels * size
            grad_start += numbers * channels * size
            of_gamma += 4 * channels * parts
            of_beta += 4 * channels * parts
    except UnsupportedError:
        return by_paddle.normalisation_sums(to_float32(x), to_float32(grad), mean, variance, epsilon)
    return tuple(_tensor(value) for value in sums.sum(1, dtype=np.float64))


def _piece(size: int, parts: int, channels: int, epsilon: float, gradient: bool, numbers: int) -> Primitive:
    """The normalisation of so many pixels, or its gradient, with so many sums for each channel."""
    # pixels that follow each other go to different sums: to oneDNN they are channels
    sizes = ((1, 1, size // parts, parts * channels), epsilon, gradient, numbers)
    return loaded().primitive((builders.normalisation, *sizes), builders.normalisation, *sizes)


@functools.lru_cache(maxsize=64)
def _pieces(pixels: int) -> tuple[list[tuple[int, int]], np.ndarray]:
    """Number of pixels and of parts of each, and of each part its share in all pixels."""
    whole, left, single = pixels // PIECE, pixels % PIECE // PARTS * PARTS, pixels % PARTS
    pieces = [*[(PIECE, PARTS)] * whole, *[(left, PARTS)] * (left > 0), *[(single, 1)] * (single > 0)]
    return pieces, np.concatenate([np.full(parts, size / parts / pixels) for size, parts in pieces])


def _tensor(values: np.ndarray) -> Tensor:
    # several times faster than paddle.to_tensor
    tensor, values = empty(values.shape), values.astype(np.float32)
    ctypes.memmove(tensor.data_ptr(), values.ctypes.data, values.nbytes)
    return tensor


@functools.lru_cache(maxsize=256)
def _ones(count: int) -> Tensor:
    return paddle.ones([count], "float32")
