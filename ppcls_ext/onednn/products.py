"""Convolutions that are products of matrices, by oneDNN's "matmul".

*Pointwise* ones of stride 1: channels-last maps (N, H, W, C) and kernels (O, C, 1, 1) are the matrices already,
(N·H·W, C) and (O, C). oneDNN's convolutions compute the same and first bring the kernel into a layout of theirs, and
its gradient back, which takes longer than the product where pixels are few. For bfloat16 maps the kernel is converted
as it lies in memory.

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
from ppcls_ext.onednn.bfloat16 import to_bfloat16
from ppcls_ext.onednn.builders import Geometry
from ppcls_ext.onednn.find import loaded
from ppcls_ext.onednn.memory import address, is_half
from ppcls_ext.onednn.run import computes, run

#: Pixels up to which the gradient of a float32 kernel, which adds them one by one, is a product.
MOST = 2048
#: Images from which on the product is worth unfolding the kernel; its gradient, for which oneDNN unfolds the map of one
#: image after the other, is from fewer on.
FEWEST, FEWEST_OF_GRADIENT = 32, 8
_POINTWISE = Geometry()


def is_product(kernel_shape: Sequence[int], geometry: Geometry) -> bool:
    """Whether the convolution is a product of matrices."""
    return kernel_shape[2] == 1 and kernel_shape[3] == 1 and geometry == _POINTWISE


def has_product_gradient(x: Tensor) -> bool:
    """Whether the gradient of the kernel, of a map (N, H, W, C), is better computed as a product, too."""
    return is_half(x) or math.prod(x.shape[:3]) <= MOST


def pointwise(x: Tensor, kernel: Tensor, bias: Tensor | None, y: Tensor) -> bool:
    """`x: (N, H, W, C)`, `kernel: (O, C, 1, 1)`, `bias: (O,)` → `y: (N, H, W, O)`; False where oneDNN cannot."""
    sizes, biases = (math.prod(x.shape[:3]), tuple(kernel.shape), bias is not None), () if bias is None else (bias,)
    return run(builders.pointwise, sizes, x, _alike(x, kernel), *biases, y)


def pointwise_input_gradient(grad: Tensor, kernel: Tensor, result: Tensor) -> bool:
    """`grad: (N, H, W, O)`, `kernel: (O, C, 1, 1)` → `result: (N, H, W, C)`."""
    sizes = (math.prod(grad.shape[:3]), tuple(kernel.shape))
    return run(builders.pointwise_input_gradient, sizes, grad, _alike(grad, kernel), result)


def pointwise_kernel_gradient(x: Tensor, grad: Tensor, result: Tensor) -> bool:
    """`x: (N, H, W, C)`, `grad: (N, H, W, O)` → `result: (O, C, 1, 1)`."""
    return run(builders.pointwise_kernel_gradient, (math.prod(x.shape[:3]), tuple(result.shape)), grad, x, result)


def _alike(x: Tensor, kernel: Tensor) -> Tensor:
    return to_bfloat16(kernel) if is_half(x) and computes(x) else kernel


def sees_all(shape: Sequence[int], kernel_shape: Sequence[int], geometry: Geometry, fewest: int = FEWEST) -> bool:
    """Whether each output of the convolution of a map (N, H, W, C) sees each input, and unfolding pays.

    `fewest`: images, `FEWEST`, or for the gradient of the kernel `FEWEST_OF_GRADIENT`.
    """
    size, padding = kernel_shape[2], geometry.padding
    if size == 1 or geometry.groups > 1 or shape[0] < fewest or max(shape[1:3]) + padding > size:
        return False
    return all((side - 1) * geometry.stride <= padding for side in geometry.output_shape(shape, kernel_shape)[1:3])


def unfolded(x: Tensor, kernel: Tensor, geometry: Geometry, y: Tensor) -> bool:
    """`x: (N, H, W, C)`, `kernel: (O, C, k, k)` → `y: (N, Ho, Wo, O)`; False where oneDNN cannot."""
    return pointwise(_rows(x), _matrix(x.shape, kernel, geometry), None, _rows(y))


def unfolded_input_gradient(grad: Tensor, kernel: Tensor, geometry: Geometry, result: Tensor) -> bool:
    """`grad: (N, Ho, Wo, O)`, `kernel: (O, C, k, k)` → `result: (N, H, W, C)`."""
    return pointwise_input_gradient(_rows(grad), _matrix(result.shape, kernel, geometry), _rows(result))


def _matrix(shape: Sequence[int], kernel: Tensor, geometry: Geometry) -> Tensor:
    """The kernel between all numbers of a map (H, W, C) and all outputs, (Ho·Wo·O, H·W·C, 1, 1)."""
    inputs, outputs = math.prod(shape[1:]), math.prod(geometry.output_shape(shape, kernel.shape)[1:])
    matrix = empty_map([outputs, inputs, 1, 1])
    for number, part in enumerate(_parts(shape, kernel.shape, geometry)):
        _reorder(shape, kernel, part, _strides(shape), matrix, number * kernel.shape[0] * inputs)
    return matrix


def unfolded_kernel_gradient(x: Tensor, grad: Tensor, geometry: Geometry, result: Tensor) -> bool:
    """`x: (N, H, W, C)`, `grad: (N, Ho, Wo, O)` → `result: (O, C, k, k)`."""
    inputs, outputs = math.prod(x.shape[1:]), math.prod(grad.shape[1:])
    matrix = empty_map([outputs, inputs, 1, 1])
    if not pointwise_kernel_gradient(_rows(x), _rows(grad), matrix):
        return False
    result.zero_()
    for number, part in enumerate(_parts(x.shape, result.shape, geometry)):
        _reorder(x.shape, result, part, _strides(x.shape), matrix, number * result.shape[0] * inputs, back=True)
    return True


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
