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
from ppcls_ext.onednn.arena import empty, empty_map
from ppcls_ext.onednn.bfloat16 import has_primitives, to_float32
from ppcls_ext.onednn.find import loaded
from ppcls_ext.onednn.library import Primitive, UnsupportedError
from ppcls_ext.onednn.memory import BFLOAT16, address, is_half

#: Pixels in one sum at most.
LONGEST = 1024
#: Pixels that are read at a time, to stay in the processor's cache, and the sums that they are divided into.
PIECE, PARTS = 4096, 32
#: Pixels in one of the sums of `channel_sums`.
ADDENDS = 64


def channel_sums(x: Tensor) -> Tensor:
    """Over all pixels: (N, H, W, C) → (C,)."""
    pixels, channels = math.prod(x.shape[:3]), x.shape[3]
    if is_half(x) and has_primitives() and pixels % ADDENDS == 0:
        try:
            return _row_sum(_partial_sums(x, pixels // ADDENDS * channels).reshape([-1, channels]))
        except UnsupportedError:
            pass
    return _row_sum(to_float32(x).reshape([pixels, channels]))


def _partial_sums(x: Tensor, count: int) -> Tensor:
    """So many sums of a bfloat16 map, float32, of `ADDENDS` numbers each."""
    sizes = (ADDENDS, count, BFLOAT16)
    primitive = loaded().primitive((builders.column_sums, *sizes), builders.column_sums, *sizes)
    sums = empty([count])
    ones = _ones_in_bfloat16(ADDENDS)
    primitive(address(ones, ADDENDS, numbers=BFLOAT16), address(x, ADDENDS * count, numbers=BFLOAT16), sums.data_ptr())
    return sums


def _row_sum(rows: Tensor) -> Tensor:
    """`rows: (R, C)` → (C,)."""
    # products with ones are several times faster than Paddle's sum
    count, channels = rows.shape
    if count <= ADDENDS:
        return paddle.matmul(_ones(count), rows)
    single = count % ADDENDS
    parts = paddle.matmul(_ones(ADDENDS), rows[single:].reshape([ADDENDS, -1])).reshape([-1, channels])
    sums = _row_sum(parts)
    return sums + paddle.matmul(_ones(single), rows[:single]) if single else sums


def image_sums(x: Tensor) -> Tensor:
    """Over the pixels of each image: (N, H, W, C) → (N, C)."""
    batch, height, width, channels = x.shape
    x = to_float32(x)
    rows = paddle.matmul(_ones(height), x.reshape([batch, height, width * channels]))
    return paddle.matmul(_ones(width), rows.reshape([batch, width, channels]))


def mean_and_variance(x: Tensor) -> tuple[Tensor, Tensor]:
    """Of each channel, (C,), the variance biased; `x: (N, H, W, C)`.

    oneDNN's own statistics take up to seven times as long: it goes down one channel after the other, and a processor's
    cache holds the lines of few pixels.
    """
    x = to_float32(x)
    shape, pixels = tuple(x.shape), math.prod(x.shape[:3])
    minus_mean = channel_sums(x) * (-1 / pixels)
    squares = empty_map(shape)
    try:
        primitive = loaded().primitive((builders.centred_squares, shape), builders.centred_squares, shape)
        primitive(address(x, x.size), address(minus_mean, shape[3]), address(squares, x.size))
    except UnsupportedError:
        squares = by_paddle.centred_squares(x, minus_mean)
    return -minus_mean, channel_sums(squares) * (1 / pixels)


def normalisation_sums(
    x: Tensor, grad: Tensor, mean: Tensor, variance: Tensor, epsilon: float
) -> tuple[Tensor, Tensor]:
    """Gradients of γ and β of a batch normalisation: sums of `grad · (x − mean) / √(variance + ε)` and `grad`, (C,).

    `x, grad: (N, H, W, C)`. Reads the maps once.
    """
    if is_half(x) and not has_primitives():
        x, grad = to_float32(x), to_float32(grad)
    channels, pixels, numbers = x.shape[3], math.prod(x.shape[:3]), x.element_size()
    pieces, count = _pieces(pixels)
    ones = _ones(PARTS * channels).data_ptr()
    means, variances = (value.tile([PARTS]) for value in (mean, variance))
    unused = empty([PIECE * channels], numbers)
    sums = np.empty([2, count, channels], np.float32)
    x_start, grad_start = (address(value, pixels * channels, numbers=numbers) for value in (x, grad))
    of_gamma, of_beta = sums[0].ctypes.data, sums[1].ctypes.data
    statistics = address(means, PARTS * channels), address(variances, PARTS * channels)
    try:
        for size, parts in pieces:
            primitive = _piece(size, parts, channels, epsilon, numbers)
            primitive(x_start, *statistics, grad_start, ones, unused.data_ptr(), of_gamma, of_beta)
            x_start += numbers * channels * size
            grad_start += numbers * channels * size
            of_gamma += 4 * channels * parts
            of_beta += 4 * channels * parts
    except UnsupportedError:
        return by_paddle.normalisation_sums(to_float32(x), to_float32(grad), mean, variance, epsilon)
    return tuple(_tensor(value) for value in sums.sum(1, dtype=np.float64))


def _piece(size: int, parts: int, channels: int, epsilon: float, numbers: int) -> Primitive:
    """The gradient of the normalisation of so many pixels, with so many sums for each channel."""
    # pixels that follow each other go to different sums: to oneDNN they are channels
    sizes = ((1, 1, size // parts, parts * channels), epsilon, True, numbers)
    return loaded().primitive((builders.normalisation, *sizes), builders.normalisation, *sizes)


@functools.lru_cache(maxsize=64)
def _pieces(pixels: int) -> tuple[list[tuple[int, int]], int]:
    """Number of pixels and of parts of each piece, and the number of all parts."""
    whole, left, single = pixels // PIECE, pixels % PIECE // PARTS * PARTS, pixels % PARTS
    pieces = [*[(PIECE, PARTS)] * whole, *[(left, PARTS)] * (left > 0), *[(single, 1)] * (single > 0)]
    return pieces, sum(parts for _, parts in pieces)


def _tensor(values: np.ndarray) -> Tensor:
    # several times faster than paddle.to_tensor
    tensor, values = empty(values.shape), values.astype(np.float32)
    ctypes.memmove(tensor.data_ptr(), values.ctypes.data, values.nbytes)
    return tensor


@functools.lru_cache(maxsize=4)
def _ones_in_bfloat16(count: int) -> Tensor:
    return paddle.ones([count], "float32").cast("bfloat16")


@functools.lru_cache(maxsize=256)
def _ones(count: int) -> Tensor:
    return paddle.ones([count], "float32")
