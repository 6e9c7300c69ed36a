"""Convolutions that are products of matrices, of float32 numbers, by oneDNN's own `dnnl_sgemm`.

*Pointwise* ones of stride 1: channels-last maps (N, H, W, C) and kernels (O, C, 1, 1) are the matrices already,
(N·H·W, C) and (O, C). oneDNN's convolutions compute the same and first bring the kernel into a layout of theirs, which
takes longer than the product where pixels are few; for many both are equally fast.

*Unfolded* ones, of maps so small that each output sees each input: for every pair of an output and an input pixel the
matrix holds the numbers between them, so that maps are rows of H·W·C numbers. A 3×3 convolution of 2×2 maps takes 16
products for each pair of channels then, none of them with padding, instead of 36. They serve the last two stages of
RepVGG at 32 px, where they were measured to be worth their lines: a step of RepVGG_B1g4 at 64 × 32 px takes 464 ms with
them and 606 ms without (2 cores of an AMD EPYC, Zen 4).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from paddle import Tensor

from ppcls_ext.onednn import builders
from ppcls_ext.onednn.arena import empty_map
from ppcls_ext.onednn.builders import Geometry
from ppcls_ext.onednn.find import loaded
from ppcls_ext.onednn.memory import address

#: Pixels up to which the gradient of a kernel, which adds them one by one in float32, is a product.
MOST = 2048
#: Images from which on the product is worth unfolding the kernel; its gradient, for which oneDNN unfolds the map of one
#: image after the other, is from fewer on.
FEWEST, FEWEST_OF_GRADIENT = 32, 8
_POINTWISE = Geometry()


def is_product(kernel_shape: Sequence[int], geometry: Geometry) -> bool:
    """Whether the convolution is a product of matrices."""
    return kernel_shape[2] == 1 and kernel_shape[3] == 1 and geometry == _POINTWISE


def has_product_gradient(shape: Sequence[int]) -> bool:
    """Whether the gradient of the kernel is better computed as a product, too."""
    return math.prod(shape[:3]) <= MOST


def pointwise(x: Tensor, turned: Tensor, y: Tensor) -> None:
    """`x: (N, H, W, C)`, `turned: (C, O)`, the kernel transposed → `y: (N, H, W, O)`."""
    channels, outputs = turned.shape
    _multiply(b"N", b"N", (math.prod(x.shape[:3]), outputs, channels), (x, channels), (turned, outputs), (y, outputs))


def pointwise_input_gradient(grad: Tensor, kernel: Tensor, result: Tensor) -> None:
    """`grad: (N, H, W, O)`, `kernel: (O, C, 1, 1)` → `result: (N, H, W, C)`."""
    outputs, channels = kernel.shape[:2]
    sizes = math.prod(grad.shape[:3]), channels, outputs
    _multiply(b"N", b"N", sizes, (grad, outputs), (kernel, channels), (result, channels))


def pointwise_kernel_gradient(x: Tensor, grad: Tensor, result: Tensor) -> None:
    """`x: (N, H, W, C)`, `grad: (N, H, W, O)` → `result: (O, C, 1, 1)`."""
    outputs, channels = result.shape[:2]
    sizes = outputs, channels, math.prod(x.shape[:3])
    _multiply(b"T", b"N", sizes, (grad, outputs), (x, channels), (result, channels))


def _multiply(turn_a: bytes, turn_b: bytes, sizes: tuple, a: tuple, b: tuple, c: tuple) -> None:
    """Rows times columns; `sizes`: rows and columns of the result, summands; matrices with the length of their rows."""
    (left, left_row), (right, right_row), (result, result_row) = a, b, c
    rows, columns, summands = sizes
    places = [address(left, rows * summands), left_row, address(right, summands * columns), right_row, 0.0]
    if loaded().multiply(turn_a, turn_b, *sizes, 1.0, *places, address(result, rows * columns), result_row):
        raise RuntimeError("oneDNN could not multiply two matrices")


def sees_all(shape: Sequence[int], kernel_shape: Sequence[int], geometry: Geometry, fewest: int = FEWEST) -> bool:
    """Whether each output of the convolution of a map (N, H, W, C) sees each input, and unfolding pays.

    `fewest`: images, `FEWEST`, or for the gradient of the kernel `FEWEST_OF_GRADIENT`.
    """
    size, padding = kernel_shape[2], geometry.padding
    if size == 1 or geometry.groups > 1 or shape[0] < fewest or max(shape[1:3]) + padding > size:
        return False
    return all((side - 1) * geometry.stride <= padding for side in geometry.output_shape(shape, kernel_shape)[1:3])


def unfolded(x: Tensor, kernel: Tensor, geometry: Geometry, y: Tensor) -> None:
    """`x: (N, H, W, C)`, `kernel: (O, C, k, k)` → `y: (N, Ho, Wo, O)`."""
    inputs, outputs = math.prod(x.shape[1:]), math.prod(y.shape[1:])
    matrix = empty_map([inputs, outputs])
    # along the axes O, C, H and W of a part of the kernel
    strides = [1, outputs, x.shape[2] * x.shape[3] * outputs, x.shape[3] * outputs]
    for number, part in enumerate(_parts(x.shape, kernel.shape, geometry)):
        _reorder(x.shape, kernel, part, strides, matrix, number * kernel.shape[0])
    pointwise(_rows(x), matrix, _rows(y))


def unfolded_input_gradient(grad: Tensor, kernel: Tensor, geometry: Geometry, result: Tensor) -> None:
    """`grad: (N, Ho, Wo, O)`, `kernel: (O, C, k, k)` → `result: (N, H, W, C)`."""
    inputs, outputs = math.prod(result.shape[1:]), math.prod(grad.shape[1:])
    matrix = empty_map([outputs, inputs])
    for number, part in enumerate(_parts(result.shape, kernel.shape, geometry)):
        _reorder(result.shape, kernel, part, _strides(result.shape), matrix, number * kernel.shape[0] * inputs)
    pointwise_input_gradient(_rows(grad), matrix.reshape([outputs, inputs, 1, 1]), _rows(result))


def unfolded_kernel_gradient(x: Tensor, grad: Tensor, geometry: Geometry, result: Tensor) -> None:
    """`x: (N, H, W, C)`, `grad: (N, Ho, Wo, O)` → `result: (O, C, k, k)`."""
    inputs, outputs = math.prod(x.shape[1:]), math.prod(grad.shape[1:])
    matrix = empty_map([outputs, inputs, 1, 1])
    pointwise_kernel_gradient(_rows(x), _rows(grad), matrix)
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
