"""Pointwise convolutions of stride 1 as products of matrices, by oneDNN's own `dnnl_sgemm`.

Channels-last maps (N, H, W, C) and kernels (O, C, 1, 1) are the matrices already, (N·H·W, C) and (O, C). oneDNN's
convolutions compute the same and first bring the kernel into a layout of theirs, which takes longer than the product
where pixels are few; for many both are equally fast.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from paddle import Tensor

from ppcls_ext.onednn.builders import Geometry
from ppcls_ext.onednn.find import loaded
from ppcls_ext.onednn.memory import address

#: Pixels up to which the gradient of a kernel, which adds them one by one in float32, is a product.
MOST = 2048
_POINTWISE = Geometry()


def is_product(kernel_shape: Sequence[int], geometry: Geometry) -> bool:
    """Whether the convolution is a product of matrices."""
    return kernel_shape[2] == 1 and kernel_shape[3] == 1 and geometry == _POINTWISE


def has_product_gradient(shape: Sequence[int]) -> bool:
    """Whether the gradient of the kernel is better computed as a product, too."""
    return math.prod(shape[:3]) <= MOST


def convolve(x: Tensor, turned: Tensor, y: Tensor) -> None:
    """`x: (N, H, W, C)`, `turned: (C, O)`, the kernel transposed → `y: (N, H, W, O)`."""
    channels, outputs = turned.shape
    _multiply(b"N", b"N", (math.prod(x.shape[:3]), outputs, channels), (x, channels), (turned, outputs), (y, outputs))


def input_gradient(grad: Tensor, kernel: Tensor, result: Tensor) -> None:
    """`grad: (N, H, W, O)`, `kernel: (O, C, 1, 1)` → `result: (N, H, W, C)`."""
    outputs, channels = kernel.shape[:2]
    sizes = math.prod(grad.shape[:3]), channels, outputs
    _multiply(b"N", b"N", sizes, (grad, outputs), (kernel, channels), (result, channels))


def kernel_gradient(x: Tensor, grad: Tensor, result: Tensor) -> None:
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
