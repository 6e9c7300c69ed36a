"""The sum of several pointwise conv-BN branches as one convolution, by the mean and covariance of its input."""

from __future__ import annotations

import math
from typing import Any

import paddle
from paddle import Tensor, nn

from ppcls_ext.layers.branch_sum_operation import update_running
from ppcls_ext.onednn import builders, operations
from ppcls_ext.onednn.builders import Geometry
from ppcls_ext.onednn.maps import Operation, from_channels_last, to_channels_last
from ppcls_ext.onednn.statistics import channel_sums


class PointwiseSum(Operation):
    """`relu(Σ BN(K·x) + BN(x))`; called with x, then K, γ, β of each branch, and γ, β of the identity where it is.

    Batch normalisation is affine: the branches fold into one kernel `F = Σ t·K`, `t = γ / √(v + ε)`, as in eval mode.
    The variances `v = diag(K S Kᵀ)` follow from the covariance S of x, and with x moved to mean 0 the shift is Σ β.

    Args:
        norms: of the branches with a kernel.
        identity: the normalisation of x itself, if any.
        relu: whether the sum goes through a ReLU.
    """

    def __init__(self, norms: list[nn.BatchNorm2D], identity: nn.BatchNorm2D | None, relu: bool) -> None:
        self.norms, self.identity, self.relu = norms, identity, relu
        self.epsilon = norms[0]._epsilon

    @staticmethod
    def pays(branches: int, outputs: int, channels: int, pixels: int) -> bool:
        """Whether it takes fewer multiplications than one convolution for each branch (N·H·W pixels)."""
        by_branch = 3 * branches * outputs * channels * pixels
        folded = (2 * channels + 3 * outputs) * channels * pixels + 4 * branches * outputs * channels**2
        return branches > 1 and folded < by_branch

    def forward(self, x: Tensor, *parameters: Tensor) -> tuple[Tensor, list[Tensor]]:
        """See `Operation.forward`."""
        rows = to_channels_last(x)
        pixels = math.prod(rows.shape[:3])
        mean = channel_sums(rows) / pixels
        centred = operations.weighted_sum(rows, [-mean], paddle.ones_like(mean))
        channels = rows.shape[3]
        covariance = operations.kernel_gradient(centred, centred, [channels, channels, 1, 1], Geometry())
        covariance = covariance.flatten(1) / pixels
        kernels = paddle.stack([kernel.flatten(1) for kernel in parameters[0 : 3 * len(self.norms) : 3]])
        gamma = paddle.stack(parameters[1 : 3 * len(self.norms) : 3])
        products = paddle.matmul(kernels, covariance)
        variances = (products * kernels).sum(2)
        scales = gamma * paddle.rsqrt(variances + self.epsilon)
        folded = (kernels * scales.unsqueeze(2)).sum(0)
        shift = sum(parameters[2 : 3 * len(self.norms) : 3])
        for norm, branch_mean, variance in zip(self.norms, paddle.matmul(kernels, mean), variances):
            update_running(norm, branch_mean, variance)
        if self.identity is not None:
            own = paddle.diagonal(covariance)
            folded = folded + paddle.diag(parameters[-2] * paddle.rsqrt(own + self.epsilon))
            shift = shift + parameters[-1]
            update_running(self.identity, mean, own)
        y = operations.convolve(centred, folded.reshape([*folded.shape, 1, 1]), shift, Geometry())
        y = operations.activate(y, builders.RELU, in_place=True) if self.relu else y
        saved = [centred, covariance, kernels, gamma, products, variances, folded]
        return y, [*saved, y] if self.relu else saved

    def backward(self, grad: Tensor, inputs: list[Tensor], saved: list[Tensor], needed: list[bool]) -> list[Any]:
        """See `Operation.backward`."""
        centred, covariance, kernels, gamma, products, variances, folded = saved[:7]
        if self.relu:
            grad = operations.activate_gradient(saved[7], grad, builders.RELU)
        pixels = math.prod(centred.shape[:3])
        shape = [*folded.shape, 1, 1]
        folded_grad = operations.kernel_gradient(centred, grad, shape, Geometry()).flatten(1)
        shift_grad = channel_sums(grad)
        inverse = paddle.rsqrt(variances + self.epsilon)
        scale_grads = (kernels * folded_grad).sum(2)
        variance_grads = -0.5 * scale_grads * gamma * inverse**3
        kernel_grads = folded_grad * (gamma * inverse).unsqueeze(2) + 2 * variance_grads.unsqueeze(2) * products
        gamma_grads = scale_grads * inverse
        weighted = kernels * variance_grads.unsqueeze(2)
        covariance_grad = paddle.matmul(kernels.flatten(0, 1), weighted.flatten(0, 1), transpose_x=True)
        grads: list[Tensor | None] = []
        for kernel_grad, gamma_grad in zip(kernel_grads, gamma_grads):
            grads += [kernel_grad.reshape(shape), gamma_grad, shift_grad]
        if self.identity is not None:
            own = paddle.rsqrt(paddle.diagonal(covariance) + self.epsilon)
            along = paddle.diagonal(folded_grad)
            grads += [along * own, shift_grad]
            covariance_grad = covariance_grad + paddle.diag(-0.5 * along * inputs[-2] * own**3)
        x_grad = None
        if needed[0]:
            through = operations.input_gradient(grad, folded.reshape(shape), centred.shape, Geometry())
            channels = centred.shape[3]
            kernel = (covariance_grad * (2 / pixels)).reshape([channels, channels, 1, 1])
            shift = -paddle.matmul(shift_grad, folded) / pixels
            of_moments = operations.convolve(centred, kernel, shift, Geometry())
            x_grad = from_channels_last(operations.weighted_sum(through, [of_moments], in_place=True))
        return [x_grad, *grads]
