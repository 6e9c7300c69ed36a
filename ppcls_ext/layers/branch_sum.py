"""The sum of conv-BN branches in train mode, computed together.

Pointwise and depthwise branches, which is all that MobileOne has behind its stem, are computed in one of two ways, over
the same parameters and to the result of the definition, `RepConv.sum_of_branches`:

- *folded*, on CPUs: batch normalisation with batch statistics is affine too, so the branches fold into one convolution,
  as they do in eval mode. The statistics follow from the mean and covariance of what the convolution reads, and
  gradients flow through both: no branch's output is computed, except where few pixels make that cheaper.
- *grouped*, on GPUs: all convolutions as one with k times as many outputs, and one batch normalisation.
"""

from __future__ import annotations

import functools

import paddle
from paddle import Tensor, nn
from paddle.base.dygraph.base import in_sot_simulation_mode

from ppcls_ext.layers.channel_major import from_channel_major, to_channel_major
from ppcls_ext.layers.patch_moments import Windows
from ppcls_ext.layers.row_statistics import centre, mean_squares, row_means, row_moments, variances
from ppcls_ext.reparam.algebra import Branch, identity_kernel, pad_kernel

#: How many numbers a kernel of a dense convolution reads at most so that it is computed as a pointwise one.
STEM_INPUTS = 32


def branch_sum(x: Tensor, branches: list[Branch], groups: int, size: int, stride: int) -> Tensor:
    """The sum of all branches, by the way that suits the device; updates the running statistics.

    Args:
        x: (N, C, H, W).
        branches: see `can_sum`.
        groups: of every branch.
        size: of the largest kernel, px.
        stride: px.

    Returns:
        (N, out, Ho, Wo); on a CPU a view of a channel-major map.
    """
    return (folded if x.place.is_cpu_place() else grouped)(x, branches, groups, size, stride)


def can_sum(x: Tensor, channels: int, groups: int, size: int, stride: int) -> bool:
    """Whether `branch_sum` handles such branches and such an input, and is faster than one operation per branch.

    Args:
        x: (N, C, H, W).
        channels: of the output.
        groups: of every branch.
        size: of the largest kernel, px.
        stride: px.
    """
    pointwise = size == groups == stride == 1
    depthwise = groups == channels == x.shape[1]
    has_identity = x.shape[1] == channels and stride == 1
    stem = groups == 1 and x.shape[1] * size**2 <= STEM_INPUTS and not has_identity and x.place.is_cpu_place()
    traced = in_sot_simulation_mode() or not paddle.in_dynamic_mode()
    if traced or not (pointwise or depthwise or stem):
        return False
    # what is squared and summed must not be of 16 bits: Paddle's own batch normalisation, on GPUs, sees to that itself
    return x.dtype in (paddle.float32, paddle.float64) or not x.place.is_cpu_place()


def grouped(x: Tensor, branches: list[Branch], groups: int, size: int, stride: int) -> Tensor:
    """See `branch_sum`: one convolution, one batch normalisation, and the identity branch beside them."""
    convs = [branch for branch in branches if branch.kernel is not None]
    norms = [branch.norm for branch in convs]
    count, channels = len(convs), norms[0].weight.shape[0]

    def together(tensors: list[Tensor]) -> Tensor:
        # the outputs of a group stand side by side, branch by branch
        parts = [tensor.reshape([groups, channels // groups, *tensor.shape[1:]]) for tensor in tensors]
        return paddle.stack(parts, axis=1).flatten(0, 2)

    kernel = together([pad_kernel(branch.kernel, size) for branch in convs])
    outputs = nn.functional.conv2d(x, kernel, None, stride, size // 2, groups=groups)
    gamma, beta = together([norm.weight for norm in norms]), together([norm.bias for norm in norms])
    means, variances = paddle.zeros_like(gamma).detach(), paddle.zeros_like(gamma).detach()
    # with momentum 0 the "running" statistics are those of the batch
    outputs = nn.functional.batch_norm(
        outputs, means, variances, gamma, beta, training=True, momentum=0.0, epsilon=norms[0]._epsilon
    )
    statistics = (
        value.reshape([groups, count, -1]).transpose([0, 2, 1]).reshape([-1, count]) for value in (means, variances)
    )
    _update_running(norms, *statistics)
    y = outputs.reshape([x.shape[0], groups, count, -1, *outputs.shape[2:]]).sum(2).flatten(1, 2)
    return sum((branch.norm(x) for branch in branches if branch.kernel is None), y)


def folded(x: Tensor, branches: list[Branch], groups: int, size: int, stride: int) -> Tensor:
    """See `branch_sum`: one convolution."""
    if groups == x.shape[1] == branches[0].norm.weight.shape[0]:
        y = _depthwise(to_channel_major(x), branches, size, stride)
    else:
        y = _pointwise(to_channel_major(x) if size == stride == 1 else _patches(x, size, stride), branches, size)
    return from_channel_major(y)


def _depthwise(x: Tensor, branches: list[Branch], size: int, stride: int) -> Tensor:
    """(C, N, H, W) → (C, N, Ho, Wo)."""
    channels = x.shape[0]
    kernels = _side_by_side(
        [_identity(channels, size, x.dtype) if kernel is None else pad_kernel(kernel, size) for kernel, _ in branches]
    )
    windows = Windows(x, size, stride)
    mean, covariance = windows.moments()
    means = paddle.bmm(kernels, mean.unsqueeze(2)).squeeze(2)
    scale, shift = _normalisation(branches, means, variances(kernels, covariance))
    bias = (shift - means * scale).sum(1, keepdim=True)
    return windows.convolve(paddle.bmm(scale.unsqueeze(1), kernels).squeeze(1), bias)


def _patches(x: Tensor, size: int, stride: int) -> Tensor:
    """(N, C, H, W) → (C·k², N, Ho, Wo): what a convolution reads, which makes it a pointwise one."""
    batch, _, height, width = x.shape
    patches = nn.functional.unfold(x, size, stride, size // 2).transpose([1, 0, 2])
    return patches.reshape([-1, batch, (height - 1) // stride + 1, (width - 1) // stride + 1])


def _pointwise(x: Tensor, branches: list[Branch], size: int) -> Tensor:
    """(C, N, H, W) → (out, N, H, W); C may be the values of a patch of a kernel's size.

    With few pixels the variances come cheaper from the branches' own outputs, and the sum with them.
    """
    pixels = x.reshape([x.shape[0], -1])
    has_identity = branches[-1].kernel is None
    kernels = _side_by_side([pad_kernel(kernel, size) for kernel, _ in branches if kernel is not None])
    outputs, count, channels = kernels.shape
    rows = kernels.reshape([-1, channels])
    few_pixels = _outputs_are_cheaper(kernels, pixels.shape[1])
    if few_pixels:
        means, centred = row_means(pixels).detach(), centre(pixels)
        maps = paddle.matmul(rows, centred)
        branch_variances = mean_squares(maps).reshape([outputs, count])
    else:
        means, covariance = row_moments(pixels)
        branch_variances = variances(rows, covariance).reshape([outputs, count])
    branch_means = paddle.matmul(rows, means).reshape([outputs, count])
    if has_identity:
        own = mean_squares(centred) if few_pixels else paddle.diagonal(covariance)
        branch_variances = paddle.concat([branch_variances, own.unsqueeze(1)], axis=1)
        branch_means = paddle.concat([branch_means, means], axis=1)
    scale, shift = _normalisation(branches, branch_means, branch_variances)
    scales = scale[:, :count].unsqueeze(1)  # (out, 1, branches)
    if few_pixels:
        y = paddle.bmm(scales, maps.reshape([outputs, count, -1])).squeeze(1) + shift.sum(1, keepdim=True)
        y = y + scale[:, count:] * centred if has_identity else y
    else:
        kernel = paddle.bmm(scales, kernels).squeeze(1)
        kernel = kernel + paddle.diag(scale[:, count]) if has_identity else kernel
        y = paddle.addmm((shift - branch_means * scale).sum(1, keepdim=True), kernel, pixels)
    return y.reshape([-1, *x.shape[1:]])


def _outputs_are_cheaper(kernels: Tensor, pixels: int) -> bool:
    """Whether a pointwise sum costs fewer MACs by the branches' own outputs than by the covariance of their input.

    Args:
        kernels: (out, branches, C).
        pixels: N·H·W.
    """
    outputs, branches, channels = kernels.shape
    by_outputs = 3 * branches * outputs * channels * pixels
    by_covariance = (2 * channels + 3 * outputs) * channels * pixels + 2 * branches * outputs * channels**2
    return by_outputs < by_covariance


def _side_by_side(kernels: list[Tensor]) -> Tensor:
    """B kernels (out, in, k, k) → (out, B, in·k²)."""
    # the gradient of `concat` takes a third of the time of that of `stack`
    return paddle.concat([kernel.flatten(1) for kernel in kernels], axis=1).reshape(
        [kernels[0].shape[0], len(kernels), -1]
    )


@functools.lru_cache(maxsize=64)
def _identity(channels: int, size: int, dtype: paddle.dtype) -> Tensor:
    """The depthwise kernel that returns its input."""
    return identity_kernel(channels, channels, size).astype(dtype)


def _normalisation(branches: list[Branch], means: Tensor, variances: Tensor) -> tuple[Tensor, Tensor]:
    """`γ / √(σ² + ε)` and β of all branches; updates the running statistics.

    Args:
        branches: B of them.
        means: of the branches' outputs, (out, B).
        variances: of the branches' outputs, biased, (out, B).
    """
    norms = [branch.norm for branch in branches]
    gamma = paddle.stack([norm.weight for norm in norms], axis=1)
    beta = paddle.stack([norm.bias for norm in norms], axis=1)
    _update_running(norms, means, variances)
    return gamma * paddle.rsqrt(variances + norms[0]._epsilon), beta


@functools.lru_cache(maxsize=64)
def _constant(values: tuple[float, ...], dtype: paddle.dtype, place: str) -> Tensor:
    """A tensor of its own for each place; making one anew takes as long as a dozen small operations."""
    return paddle.to_tensor(values, dtype)


@paddle.no_grad()
def _update_running(norms: list[nn.BatchNorm2D], means: Tensor, variances: Tensor) -> None:
    """Moves the running statistics of B normalisations towards the batch's, (out, B), by Paddle's convention."""
    rates = _constant(tuple(1 - norm._momentum for norm in norms), means.dtype, str(means.place))
    for norm, mean, variance in zip(norms, (means * rates).unbind(1), (variances * rates).unbind(1)):
        norm._mean.scale_(norm._momentum).add_(mean)
        norm._variance.scale_(norm._momentum).add_(variance)
