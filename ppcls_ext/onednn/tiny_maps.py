"""Convolutions of maps so small that each output sees each input, as one product of matrices.

The kernel is *unfolded*: for every pair of an output and an input pixel the matrix holds the numbers between them, so
that maps (N, H, W, C) are rows of H·W·C numbers. A 3×3 convolution of 2×2 maps takes 16 products for each pair of
channels then, none of them with padding, instead of 36.

It serves the last two stages of RepVGG at 32 px, where it was measured to be worth its lines: a step of RepVGG_B1g4 at
64 × 32 px takes 464 ms with it and 606 ms without (2 cores of an AMD EPYC, Zen 4).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from paddle import Tensor

from ppcls_ext.onednn import builders, products
from ppcls_ext.onednn.arena import empty_map
from ppcls_ext.onednn.builders import Geometry
from ppcls_ext.onednn.find import loaded
from ppcls_ext.onednn.memory import address

#: Pictures from which on the product is worth unfolding the kernel.
FEWEST = 32


def sees_all(shape: Sequence[int], kernel_shape: Sequence[int], geometry: Geometry) -> bool:
    """Whether each output of the convolution of a map (N, H, W, C) sees each input, and unfolding pays."""
    size, padding = kernel_shape[2], geometry.padding
    if size == 1 or geometry.groups > 1 or shape[0] < FEWEST or max(shape[1:3]) + padding > size:
        return False
    return all((side - 1) * geometry.stride <= padding for side in geometry.output_shape(shape, kernel_shape)[1:3])


def convolve(x: Tensor, kernel: Tensor, geometry: Geometry, y: Tensor) -> None:
    """`x: (N, H, W, C)`, `kernel: (O, C, k, k)` → `y: (N, Ho, Wo, O)`."""
    inputs, outputs = math.prod(x.shape[1:]), math.prod(y.shape[1:])
    matrix = empty_map([inputs, outputs])
    # along the axes O, C, H and W of a part of the kernel
    strides = [1, outputs, x.shape[2] * x.shape[3] * outputs, x.shape[3] * outputs]
    for number, part in enumerate(_parts(x.shape, kernel.shape, geometry)):
        _reorder(x.shape, kernel, part, strides, matrix, number * kernel.shape[0])
    products.convolve(_rows(x), matrix, _rows(y))


def input_gradient(grad: Tensor, kernel: Tensor, geometry: Geometry, result: Tensor) -> None:
    """`grad: (N, Ho, Wo, O)`, `kernel: (O, C, k, k)` → `result: (N, H, W, C)`."""
    inputs, outputs = math.prod(result.shape[1:]), math.prod(grad.shape[1:])
    matrix = empty_map([outputs, inputs])
    for number, part in enumerate(_parts(result.shape, kernel.shape, geometry)):
        _reorder(result.shape, kernel, part, _strides(result.shape), matrix, number * kernel.shape[0] * inputs)
    products.input_gradient(_rows(grad), matrix.reshape([outputs, inputs, 1, 1]), _rows(result))


def kernel_gradient(x: Tensor, grad: Tensor, geometry: Geometry, result: Tensor) -> None:
    """`x: (N, H, W, C)`, `grad: (N, Ho, Wo, O)` → `result: (O, C, k, k)`."""
    inputs, outputs = math.prod(x.shape[1:]), math.prod(grad.shape[1:])
    matrix = empty_map([outputs, inputs, 1, 1])
    products.kernel_gradient(_rows(x), _rows(grad), matrix)
    result.zero_()
    for number, part in enumerate(_parts(x.shape, result.shape, geometry)):
        _reorder(x.shape, result, part, _strides(x.shape), matrix, number * result.shape[0] * inputs, back=True)


def _parts(shape: Sequence[int], kernel_shape: Sequence[int], geometry: Geometry) -> Iterator[int]:
    """For each output pixel the place in the kernel, row · k + column, of what lies between it and the map's first."""
    _, height, width, _ = geometry.output_shape(shape, kernel_shape)
    for row in range(height):
        for column in range(width):
            first = geometry.padding - geometry.stride * row, geometry.padding - geometry.stride * column
            yield first[0] * kernel_shape[2] + first[1]


def _strides(shape: Sequence[int]) -> list[int]:
    """Along the axes O, C, H and W of a part of the kernel, in a matrix of a row for each output."""
    _, height, width, channels = shape
    return [height * width * channels, 1, width * channels, channels]


def _reorder(
    shape: Sequence[int], kernel: Tensor, part: int, strides: list[int], matrix: Tensor, start: int, back: bool = False
) -> None:
    """Copies a part of the kernel into the matrix from `start` on; or `back`, adding."""
    sizes = (tuple(kernel.shape), tuple(shape[1:3]), tuple(strides), back)
    addresses = [
        address(kernel, math.prod(kernel.shape)) + 4 * part,
        address(matrix, math.prod(matrix.shape)) + 4 * start,
    ]
    loaded().primitive((builders.kernel_part, *sizes), builders.kernel_part, *sizes)(*addresses[:: -1 if back else 1])


def _rows(x: Tensor) -> Tensor:
    return x.reshape([x.shape[0], 1, 1, -1])
