"""A convolution of a channels-last map with its two gradients: by this project, and by Paddle in double precision."""

from __future__ import annotations

from paddle import Tensor
from paddle.nn import functional

from ppcls_ext.onednn import operations
from ppcls_ext.onednn.builders import Geometry


def compute(x: Tensor, kernel: Tensor, grad: Tensor, geometry: Geometry) -> list[Tensor]:
    """`x: (N, H, W, C)`, `kernel: (O, C, k, k)`, `grad: (N, Ho, Wo, O)` → y, gradient of x, gradient of the kernel."""
    return [
        operations.convolve(x, kernel, None, geometry),
        operations.input_gradient(grad, kernel, x.shape, geometry),
        operations.kernel_gradient(x, grad, kernel.shape, geometry),
    ]


def in_double(x: Tensor, kernel: Tensor, grad: Tensor, geometry: Geometry) -> list[Tensor]:
    """The same three, float64."""
    x, kernel, grad = (value.astype("float64") for value in (x, kernel, grad))
    x.stop_gradient = kernel.stop_gradient = False
    y = functional.conv2d(x.transpose([0, 3, 1, 2]), kernel, None, geometry.stride, geometry.padding)
    y = y.transpose([0, 2, 3, 1])
    (y * grad).sum().backward()
    return [y.detach(), x.grad, kernel.grad]
