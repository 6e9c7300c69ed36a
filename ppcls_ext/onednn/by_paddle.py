"""The same operations by Paddle: the fallback of `operations`, and the reference of `self_check`.

Plain functions of float32 maps (N, H, W, C), kernels (O, C / groups, k, k) and vectors (C,). They call operations, not
the gradient graph, which several threads may not use at once.
"""

from __future__ import annotations

from collections.abc import Sequence

import paddle
from paddle import Tensor, _C_ops, nn

from ppcls_ext.onednn.builders import Geometry

_TO_LAST, _FROM_LAST = [0, 2, 3, 1], [0, 3, 1, 2]


def convolve(x: Tensor, kernel: Tensor, bias: Tensor | None, geometry: Geometry) -> Tensor:
    """`x: (N, H, W, C)` → (N, Ho, Wo, O)."""
    stride, padding, groups = geometry
    y = nn.functional.conv2d(x.transpose(_FROM_LAST), kernel, bias, stride, padding, groups=groups)
    return y.transpose(_TO_LAST).contiguous()


def convolution_gradients(x: Tensor, kernel: Tensor, grad: Tensor, geometry: Geometry) -> tuple[Tensor, Tensor]:
    """Of `convolve`, for x and the kernel; `grad: (N, Ho, Wo, O)`."""
    stride, padding, groups = geometry
    sizes = ([stride, stride], [padding, padding], "EXPLICIT", [1, 1], groups, "NCHW")
    x_grad, kernel_grad = _C_ops.conv2d_grad(x.transpose(_FROM_LAST), kernel, grad.transpose(_FROM_LAST), *sizes)
    return x_grad.transpose(_TO_LAST).contiguous(), kernel_grad


def mean_and_variance(x: Tensor) -> tuple[Tensor, Tensor]:
    """Of each channel, (C,), the variance biased."""
    mean = x.mean([0, 1, 2])
    return mean, centred_squares(x, -mean).mean([0, 1, 2])


def centred_squares(x: Tensor, minus_mean: Tensor) -> Tensor:
    """Of every number, `minus_mean: (C,)`."""
    return paddle.square(x + minus_mean)


def normalise_by(x: Tensor, mean: Tensor, variance: Tensor, gamma: Tensor, beta: Tensor, epsilon: float) -> Tensor:
    """Batch normalisation by these statistics."""
    return (x - mean) * (gamma * paddle.rsqrt(variance + epsilon)) + beta


def normalisation_sums(
    x: Tensor, grad: Tensor, mean: Tensor, variance: Tensor, epsilon: float
) -> tuple[Tensor, Tensor]:
    """Gradients of γ and β of a batch normalisation by the batch's statistics."""
    return (grad * (x - mean)).sum([0, 1, 2]) * paddle.rsqrt(variance + epsilon), grad.sum([0, 1, 2])


def normalisation_gradient(
    x: Tensor,
    mean: Tensor,
    variance: Tensor,
    gamma: Tensor,
    grad: Tensor,
    epsilon: float,
    gamma_grad: Tensor,
    beta_grad: Tensor,
) -> Tensor:
    """Gradient of x of a batch normalisation by the batch's statistics, from those of γ and β."""
    inverse, pixels = paddle.rsqrt(variance + epsilon), x.size // x.shape[3]
    return gamma * inverse * (grad - (beta_grad + (x - mean) * inverse * gamma_grad) / pixels)


def scaled_twice(x: Tensor, shift: Tensor, scale: Tensor, offset: Tensor, addend: Tensor, factor: Tensor) -> Tensor:
    """`((x + shift) · scale + offset + addend) · factor`, of the maps x and addend and vectors."""
    return ((x + shift) * scale + offset + addend) * factor


def weighted_sum(x: Tensor, others: Sequence[Tensor], factor: Tensor | None, relu: bool) -> Tensor:
    """`x · factor + others[0] + …`, maybe through a ReLU."""
    result = sum(others, x if factor is None else x * factor)
    return nn.functional.relu(result) if relu else result


def by_picture(x: Tensor, numbers: Tensor, product: bool, addend: Tensor | None) -> Tensor:
    """`x` times or plus `numbers: (N, C)`, plus another map."""
    numbers = numbers.reshape([x.shape[0], 1, 1, x.shape[3]])
    result = x * numbers if product else x + numbers
    return result if addend is None else result + addend


def activate(x: Tensor, relu: bool) -> Tensor:
    """ReLU or else the exact GELU of every number."""
    return nn.functional.relu(x) if relu else nn.functional.gelu(x)


def activate_gradient(x: Tensor, grad: Tensor, relu: bool) -> Tensor:
    """Of `activate`; for the ReLU `x` is its output."""
    return _C_ops.relu_grad(x, grad) if relu else _C_ops.gelu_grad(x, grad, False)


def channels_last(x: Tensor) -> Tensor:
    """(N, C, H, W) → (N, H, W, C)."""
    return x.transpose(_TO_LAST).contiguous()
