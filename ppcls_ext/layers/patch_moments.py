"""Mean and covariance of what a depthwise convolution reads, and the convolution itself, as matrix products for CPUs.

The convolution multiplies its kernel, k² numbers per channel, with a *patch* of k² values of the input at every output
position. What a linear map of the patches has as batch mean and variance follows from the patches' mean (C, k²) and
covariance (C, k², k²) alone, for any number of kernels.

Written out, the patches would take k² times the map's memory. Instead the output is cut into equal *tiles*, each of
which reads one *window* of the input; windows overlap by a margin only. Per channel the convolution is one matrix from
windows to tiles, which holds the kernel's numbers in constant places, and the patches' moments are constant sums over
those of the windows. A small map is a single window.

All maps are channel-major, (C, N, H, W).
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import numpy as np
import paddle
from paddle import Tensor
from paddle.autograd import PyLayer
from paddle.nn.functional import embedding

from ppcls_ext.layers.row_statistics import add_to_rows, row_means


class Windows:
    """The windows of a map, each channel moved by a constant to mean 0 so that squares keep their digits.

    Args:
        x: (C, N, H, W).
        size: of the kernel, odd, px.
        stride: px.
    """

    def __init__(self, x: Tensor, size: int, stride: int) -> None:
        channels, batch, height, width = x.shape
        self.out_shape = [channels, batch, _output_size(height, stride), _output_size(width, stride)]
        tile = best_tile(batch, height, width, size, stride)
        self.tiling = _tiling(channels * batch, height, width, size, stride, tile, x.dtype)
        self.means = row_means(x.detach().reshape([channels, -1]))
        windows = paddle.matmul(x.reshape([-1, self.tiling.split.shape[0]]), self.tiling.split)
        if self.tiling.window_rows is not None:
            rows = windows.reshape([-1, self.tiling.window_width])
            outside = paddle.zeros([1, rows.shape[1]], x.dtype)  # the row above and below the map
            windows = embedding(self.tiling.window_rows, paddle.concat([rows, outside]))
        windows = add_to_rows(windows.reshape([channels, -1]), -self.means)
        self.windows = windows.reshape([channels, -1, self.tiling.first.shape[0]])

    def moments(self) -> tuple[Tensor, Tensor]:
        """Mean (C, k²) and covariance (C, k², k²) of the patches."""
        channels, batch, out_height, out_width = self.out_shape
        totals, products = _Sums.apply(self.windows)
        count = batch * out_height * out_width
        mean = paddle.matmul(totals, self.tiling.first) / count
        second = paddle.matmul(products.reshape([channels, -1]), self.tiling.second) / count
        second = paddle.matmul(second, self.tiling.pairs).reshape([channels, mean.shape[1], mean.shape[1]])
        return mean + self.means, second - mean.unsqueeze(2) * mean.unsqueeze(1)

    def convolve(self, kernel: Tensor, bias: Tensor) -> Tensor:
        """`kernel: (C, k²)`, `bias: (C, 1)` → (C, N, Ho, Wo)."""
        channels, _, pixels = self.windows.shape
        matrix = paddle.matmul(kernel, self.tiling.spread).reshape([channels, pixels, -1])
        y = paddle.bmm(self.windows, matrix)
        if self.tiling.tile_rows is not None:
            y = embedding(self.tiling.tile_rows, y.reshape([-1, self.tiling.tile_width]))
        # added afterwards: the gradient of `baddbmm` takes twice as long
        y = y.reshape([channels, -1]) + (bias + self.means * kernel.sum(1, keepdim=True))
        return y.reshape(self.out_shape)


class _Sums(PyLayer):
    """Sums of rows and of products of their entries: (C, n, K) → (C, K), (C, K, K).

    The gradient of the products has to be symmetric.
    """

    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(rows)
        channels, count, _ = rows.shape
        totals = paddle.matmul(paddle.ones([channels, 1, count], rows.dtype), rows).squeeze(1)
        return totals, paddle.matmul(rows, rows, transpose_x=True)

    @staticmethod
    def backward(ctx: Any, totals_grad: Tensor, products_grad: Tensor) -> Tensor:
        (rows,) = ctx.saved_tensor()
        return paddle.baddbmm(totals_grad.unsqueeze(1), rows, 2 * products_grad)


class Tiling(NamedTuple):
    """How maps are cut into windows of K pixels and tiles of T outputs: constant tensors."""

    split: Tensor
    """Zeros and ones: a row of a map to the rows of its windows; a whole map to itself and a zero."""
    window_rows: Tensor | None
    """Which of these rows make up the windows; None where the whole map is one."""
    window_width: int
    tile_rows: Tensor | None
    """Which rows of tiles make up the output; None where they are in order."""
    tile_width: int
    spread: Tensor
    """(k², K·T), zeros and ones: a kernel to the matrix from windows to tiles."""
    first: Tensor
    """(K, k²): how often a pixel is read by a tap."""
    second: Tensor
    """(K², k²·(k² + 1) / 2): how often a pair of pixels is read by a pair of taps, regardless of order."""
    pairs: Tensor
    """(k²·(k² + 1) / 2, k⁴), zeros and ones: pairs of taps to both their orders."""


@functools.lru_cache(maxsize=256)
def best_tile(batch: int, height: int, width: int, size: int, stride: int) -> tuple[int, int]:
    """Height and width, px, of the tiles that are fastest by a model of the time, in MACs per output.

    A number that is copied costs as much as 300 MACs (which includes the passes over it that follow), a row of a
    window that is copied as much as 100: a rough fit to times on one core.
    """
    out_height, out_width = _output_size(height, stride), _output_size(width, stride)
    pairs = size**2 * (size**2 + 1) // 2

    def cost(tile: tuple[int, int]) -> float:
        tile_height, tile_width = tile
        rows, columns = ((length - 1) * stride + size for length in tile)
        pixels, outputs = rows * columns, tile_height * tile_width
        if tile == (out_height, out_width):
            rows, pixels = 0, height * width + 1
        products = 2 * pixels**2 + 3 * pixels * outputs
        return (products + 300 * pixels + 100 * rows) / outputs + 2 * pairs * pixels**2 / (
            batch * out_height * out_width
        )

    return min(((tall, wide) for tall in _divisors(out_height) for wide in _divisors(out_width)), key=cost)


@functools.lru_cache(maxsize=64)
def _tiling(
    maps: int, height: int, width: int, size: int, stride: int, tile: tuple[int, int], dtype: paddle.dtype
) -> Tiling:
    """The tiling of C·N maps."""
    out_height, out_width = _output_size(height, stride), _output_size(width, stride)
    tall, wide = tile
    down, across = out_height // tall, out_width // wide  # tiles in a map
    reads_down = np.arange(tall)[:, None] * stride + np.arange(size)  # (tile's height, k): row of the window
    reads_across = np.arange(wide)[:, None] * stride + np.arange(size)
    window_rows = tile_rows = None
    window_height, window_width = reads_down[-1, -1] + 1, reads_across[-1, -1] + 1
    if down == across == 1:
        # the window is the map, and one more pixel: all that lies outside
        pixels = height * width + 1
        pixel = np.pad(np.arange(pixels - 1).reshape(height, width), size // 2, constant_values=pixels - 1)
        split = np.eye(pixels - 1, pixels)
    else:
        pixels = window_height * window_width
        pixel = np.arange(pixels).reshape(window_height, window_width)
        column = np.arange(across)[:, None] * wide * stride - size // 2 + np.arange(window_width)
        split = column.reshape(-1) == np.arange(width)[:, None]
        row = np.arange(down)[:, None, None] * tall * stride - size // 2 + np.arange(window_height)
        piece = row * across + np.arange(across)[:, None]  # (down, across, window's height)
        window_rows = _of_all_maps(np.where((row >= 0) & (row < height), piece, -1), maps, height * across)
        if across > 1 and tall > 1:
            tile_rows = np.arange(down * across * tall).reshape(down, across, tall).transpose(0, 2, 1)
            tile_rows = _of_all_maps(tile_rows, maps, tile_rows.size)
    read = pixel[reads_down[:, None, :, None], reads_across[None, :, None, :]].reshape(tall * wide, size * size).T
    one, other = np.triu_indices(size * size)
    spread = np.zeros((size * size, pixels, tall * wide))
    spread[np.arange(size * size)[:, None], read, np.arange(tall * wide)] = 1
    second = np.zeros((pixels, pixels, len(one)))
    pairs = np.zeros((len(one), size * size, size * size))
    for first_tap, second_tap in ((one, other), (other, one)):
        np.add.at(second, (read[first_tap], read[second_tap], np.arange(len(one))[:, None]), 0.5)
        pairs[np.arange(len(one)), first_tap, second_tap] = 1

    def constant(values: np.ndarray) -> Tensor:
        return paddle.to_tensor(values.reshape(values.shape[0], -1).astype("float64")).astype(dtype)

    return Tiling(
        constant(split),
        window_rows,
        int(window_width),
        tile_rows,
        wide,
        constant(spread),
        constant(spread.sum(2).T),
        constant(second.reshape(-1, len(one))),
        constant(pairs),
    )


def _of_all_maps(pieces: np.ndarray, maps: int, pieces_of_a_map: int) -> Tensor:
    """Indices into the pieces of all maps from those of one; -1 becomes the index behind the last."""
    indices = np.arange(maps)[:, None] * pieces_of_a_map + pieces.reshape(-1)
    indices = np.where(pieces.reshape(-1) < 0, maps * pieces_of_a_map, indices)
    return paddle.to_tensor(indices.reshape(-1).astype("int32"))


def _output_size(length: int, stride: int) -> int:
    """Output length, px, of a convolution with an odd kernel padded by half its size."""
    return (length - 1) // stride + 1


def _divisors(number: int) -> list[int]:
    return [divisor for divisor in range(1, number + 1) if number % divisor == 0]
