"""Convolutions of bfloat16 maps that are no products (`products`), each by what oneDNN computes fastest.

- *The kernels' gradients of few pixels* are products, too, of patches: what lies under the kernel at each output pixel,
  a row each. 16 maps of 6×6 pixels and 192 channels, 3×3: 1.3 instead of 2.5 ms, with 512 channels 5.6 instead of 10.
- *Strided depthwise ones* have no kernel of their own for the gradients; float32 with conversions takes a tenth.

(2 cores of an Intel Xeon with AMX, oneDNN 3.6.2.)

The functions return None where oneDNN has nothing fast: then float32 computes it, of the rounded numbers.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Sequence

from paddle import Tensor

from ppcls_ext.onednn import builders
from ppcls_ext.onednn.arena import empty_map
from ppcls_ext.onednn.builders import Geometry
from ppcls_ext.onednn.find import loaded
from ppcls_ext.onednn.library import UnsupportedError
from ppcls_ext.onednn.memory import BFLOAT16, address
from ppcls_ext.onednn.run import computes, run

#: Output pixels up to which a kernel's gradient is the product of patches, and numbers in the kernel from which on.
MOST_OF_PATCHES, SMALLEST_KERNEL = 1024, 1 << 17
#: The fewest inputs and outputs of a group: oneDNN's products of one column for each of many groups are wrong.
FEWEST_OF_GROUP = 16


def convolve(x: Tensor, kernel: Tensor, bias: Tensor | None, geometry: Geometry) -> Tensor | None:
    """See `operations.convolve`."""
    shape, kernel_shape = tuple(x.shape), tuple(kernel.shape)
    y, biases = empty_map(geometry.output_shape(shape, kernel_shape), BFLOAT16), () if bias is None else (bias,)
    sizes = (shape, kernel_shape, geometry, 0, bias is not None)
    return y if run(builders.convolution, sizes, x, kernel, *biases, y) else None


def input_gradient(grad: Tensor, kernel: Tensor, shape: Sequence[int], geometry: Geometry) -> Tensor | None:
    """See `operations.input_gradient`."""
    kernel_shape = tuple(kernel.shape)
    if _is_strided_depthwise(kernel_shape, geometry):
        return None
    result = empty_map(shape, BFLOAT16)
    sizes = (tuple(shape), kernel_shape, geometry, 0)
    return result if run(builders.convolution_input_gradient, sizes, grad, kernel, result) else None


def kernel_gradient(
    x: Tensor, grad: Tensor, kernel_shape: Sequence[int], geometry: Geometry, pitch: int = 0
) -> Tensor | None:
    """See `operations.kernel_gradient`; `pitch`: the maps' channels, where only the first are convolved."""
    kernel_shape = tuple(kernel_shape)
    shape = (*x.shape[:3], kernel_shape[1] * geometry.groups)
    if _is_strided_depthwise(kernel_shape, geometry) and kernel_shape[2] == 1:
        return None
    if computes(x) and _is_product_of_patches(shape, kernel_shape, geometry):
        try:
            return _kernel_gradient_of_patches(x, grad, shape, kernel_shape, geometry, pitch)
        except UnsupportedError:
            pass
    result, sizes = empty_map(kernel_shape), (shape, kernel_shape, geometry, pitch)
    is_done = run(builders.convolution_kernel_gradient, sizes, x, grad, result, all_channels=not pitch)
    return result if is_done else None


def _is_product_of_patches(shape: Sequence[int], kernel_shape: Sequence[int], geometry: Geometry) -> bool:
    """Whether the kernel's gradient is computed of the patches of a map (N, H, W, C)."""
    pixels = math.prod(geometry.output_shape(shape, kernel_shape)[:3])
    of_group = min(kernel_shape[1], kernel_shape[0] // geometry.groups)
    is_large = math.prod(kernel_shape) >= SMALLEST_KERNEL and of_group >= FEWEST_OF_GROUP
    return kernel_shape[2] > 1 and is_large and pixels <= MOST_OF_PATCHES


def _is_strided_depthwise(kernel_shape: Sequence[int], geometry: Geometry) -> bool:
    return geometry.stride > 1 and kernel_shape[1] == 1 and kernel_shape[0] == geometry.groups


def _kernel_gradient_of_patches(
    x: Tensor, grad: Tensor, shape: tuple[int, ...], kernel_shape: tuple[int, ...], geometry: Geometry, pitch: int
) -> Tensor:
    found, sizes = loaded(), (shape, kernel_shape, geometry, pitch, BFLOAT16)
    product = found.primitive((builders.patches_product, *sizes), builders.patches_product, *sizes)
    copies = found.primitive((builders.patches, *sizes), builders.patches, *sizes)
    turn = found.primitive((builders.kernel_from_rows, kernel_shape), builders.kernel_from_rows, kernel_shape)
    (of_grad, _), (of_patches, _), (of_rows, _) = product.memory
    patches, rows, result = empty_map([of_patches], BFLOAT16), empty_map([of_rows]), empty_map(kernel_shape)
    if geometry.padding:
        ctypes.memset(patches.data_ptr(), 0, BFLOAT16 * of_patches)
    copies(address(x, math.prod(x.shape), numbers=BFLOAT16), patches.data_ptr())
    product(address(grad, of_grad, not pitch, BFLOAT16), patches.data_ptr(), rows.data_ptr())
    turn(rows.data_ptr(), result.data_ptr())
    return result
