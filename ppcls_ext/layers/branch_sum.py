"""The sum of conv-BN branches in train mode, computed together.

Over the same parameters and to the result of the definition, one operation per branch, it is computed

- on CPUs by oneDNN, in one node of the gradient graph (`BranchSum`). Branches without a convolution of their own cost
  one normalisation of the input together: the identity, and 1×1 depthwise convolutions, which only scale channels.
  Several pointwise branches fold into one convolution (`PointwiseSum`) where the pixels are many.
- on GPUs *grouped*: all convolutions as one with k times as many outputs, and one batch normalisation.
"""

from __future__ import annotations

import functools
import warnings

import paddle
from paddle import Tensor, nn

from ppcls_ext.layers.branch_sum_operation import BranchSum, update_running
from ppcls_ext.layers.pointwise_sum import PointwiseSum
from ppcls_ext.onednn.builders import Geometry
from ppcls_ext.onednn.convolution import can_convolve
from ppcls_ext.onednn.elementwise import is_plain
from ppcls_ext.onednn.maps import is_traced, usable
from ppcls_ext.reparam.algebra import Branch, pad_kernel


def branch_sum(x: Tensor, branches: list[Branch], geometry: Geometry, relu: bool = False) -> Tensor | None:
    """The sum of all branches, by the way that suits the device, or None where neither does.

    The running statistics are updated.

    Args:
        x: (N, C, H, W).
        branches: their kernels read around the same centre; all normalisations have one ε.
        geometry: of the branches with the largest kernel.
        relu: whether the sum goes through a ReLU.

    Returns:
        (N, out, Ho, Wo); on a CPU a view of a channels-last map.
    """
    if is_traced() or _sees_one_value(x, branches, geometry):
        return None
    if x.place.is_cpu_place():
        return sum_by_onednn(x, branches, geometry, relu)
    size = max(branch.kernel.shape[2] for branch in branches if branch.kernel is not None)
    channels = branches[0].norm.weight.shape[0]
    pointwise = size == geometry.groups == geometry.stride == 1
    depthwise = geometry.groups == channels == x.shape[1]
    if (not pointwise and not depthwise) or geometry.padding != size // 2:
        return None
    y = grouped(x, branches, geometry.groups, size, geometry.stride)
    return nn.functional.relu(y) if relu else y


def _sees_one_value(x: Tensor, branches: list[Branch], geometry: Geometry) -> bool:
    """Whether each normalisation has one value a channel: Paddle returns it as it is, and moves no statistic."""
    if x.shape[0] != 1:
        return False
    kernel = max((branch.kernel.shape for branch in branches if branch.kernel is not None), key=lambda shape: shape[2])
    batch, _, height, width = x.shape
    if geometry.output_shape((batch, height, width, x.shape[1]), kernel)[1:3] != [1, 1]:
        return False
    _warn_of_one_value()
    return True


@functools.lru_cache(maxsize=1)
def _warn_of_one_value() -> None:
    warnings.warn(
        "a batch normalisation gets one value a channel (one image, a map of 1×1), returns it unchanged and learns "
        "nothing: train with batches of two images or more, or with larger ones",
        stacklevel=2,
    )


def grouped(x: Tensor, branches: list[Branch], groups: int, size: int, stride: int) -> Tensor:
    """See above: one convolution, one batch normalisation, and the identity branch beside them."""
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
        value.reshape([groups, count, -1]).transpose([1, 0, 2]).reshape([count, -1]) for value in (means, variances)
    )
    for norm, mean, variance in zip(norms, *statistics):
        update_running(norm, mean, variance)
    y = outputs.reshape([x.shape[0], groups, count, -1, *outputs.shape[2:]]).sum(2).flatten(1, 2)
    return sum((branch.norm(x) for branch in branches if branch.kernel is None), y)


def sum_by_onednn(x: Tensor, branches: list[Branch], geometry: Geometry, relu: bool) -> Tensor | None:
    """See `branch_sum`; None where oneDNN doesn't compute such a map or one of the convolutions."""
    size = max((branch.kernel.shape[2] for branch in branches if branch.kernel is not None), default=0)
    depthwise = geometry.groups == x.shape[1] == branches[0].norm.weight.shape[0]
    convs, scales, identities, inputs = [], [], [], []
    if not usable(x, training=True) or x.ndim != 4:
        return None
    for kernel, norm in branches:
        if kernel is None:
            identities.append(norm)
        elif depthwise and kernel.shape[2] == geometry.stride == 1:
            scales.append(norm)
        else:
            own = geometry._replace(padding=geometry.padding - (size - kernel.shape[2]) // 2)
            if own.padding < 0 or not can_convolve(x, kernel, own, training=True):
                return None
            convs.append((norm, own))
        inputs.append([norm.weight, norm.bias] if kernel is None else [kernel, norm.weight, norm.bias])
    if not all(usable(*values, training=True) for values in inputs):
        return None
    parameters = [value for values in inputs for value in values]
    norms = [norm for norm, _ in convs]
    if geometry == Geometry() and size == 1 and not scales and len(identities) <= 1:
        pixels = x.shape[0] * x.shape[2] * x.shape[3]
        if PointwiseSum.pays(len(convs), norms[0].weight.shape[0], x.shape[1], pixels):
            return PointwiseSum(norms, identities[0] if identities else None, relu)(x, *parameters)
    return BranchSum(convs, scales, identities, relu)(x, *parameters)


def is_plain_norm(norm: nn.Layer, training: bool) -> bool:
    """Whether a normalisation is Paddle's own, unwatched, and in the mode that its parent is in."""
    return (
        is_plain(norm, nn.BatchNorm2D)
        and norm.training == training
        and not norm._use_global_stats
        and norm.weight is not None
        and norm.bias is not None
    )
