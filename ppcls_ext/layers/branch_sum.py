"""The sum of conv-BN branches in train mode, computed together.

Over the same parameters and to the result of the definition, one operation per branch, it is computed

- on CPUs by oneDNN, in one node of the gradient graph (`BranchSum`). Branches without a convolution of their own cost
  one normalisation of the input together: the identity, and 1×1 depthwise convolutions, which only scale channels.
  Several pointwise branches fold into one convolution (`PointwiseSum`) where the pixels are many.
- on GPUs *grouped*: all convolutions as one with k times as many outputs, and one batch normalisation.
"""

from __future__ import annotations

import functools
import math
import warnings
from collections.abc import Iterator
from typing import Any

import paddle
from paddle import Tensor, nn

from ppcls_ext.onednn import builders, operations
from ppcls_ext.onednn.builders import Geometry
from ppcls_ext.onednn.convolution import can_convolve
from ppcls_ext.onednn.elementwise import is_plain
from ppcls_ext.onednn.maps import Operation, from_channels_last, is_traced, to_channels_last, usable
from ppcls_ext.onednn.statistics import channel_sums
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
    kernels = [branch.kernel.shape for branch in branches if branch.kernel is not None]
    kernel = max(kernels, key=lambda shape: shape[2], default=[x.shape[1], 1, 1, 1])
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
    if not all(usable(*values, training=True, maps=0) for values in inputs):
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


class BranchSum(Operation):
    """`relu(Σ BN(K ∗ x) + Σ BN(w·x) + Σ BN(x))`; called with x, then K, γ, β; w, γ, β; γ, β of each branch.

    The branches without a convolution share the batch's mean μ and variance σ² of x, hence its normalised form x̂, which
    one pass gives. `BN(w·x)` is `γ·ρ·x̂ + β` with `ρ = w·√(σ² + ε) / √(w²σ² + ε)`, so that all these branches are one
    factor and one shift of each channel of x̂.

    Args:
        convs: normalisation and geometry of each branch with a convolution.
        scales: normalisations behind a 1×1 depthwise convolution of stride 1.
        identities: normalisations of x itself.
        relu: whether the sum goes through a ReLU.
    """

    def __init__(
        self,
        convs: list[tuple[nn.BatchNorm2D, Geometry]],
        scales: list[nn.BatchNorm2D],
        identities: list[nn.BatchNorm2D],
        relu: bool,
    ) -> None:
        self.convs, self.scales, self.identities, self.relu = convs, scales, identities, relu
        self.epsilon = [*(norm for norm, _ in convs), *scales, *identities][0]._epsilon

    def forward(self, x: Tensor, *parameters: Tensor) -> tuple[Tensor, list[Tensor]]:
        """See `Operation.forward`."""
        rows, values = to_channels_last(x), iter(parameters)
        terms, saved = [], [rows]
        for norm, geometry in self.convs:
            kernel, gamma, beta = _take(values, 3)
            outputs = operations.convolve(rows, kernel, None, geometry)
            term, mean, variance = operations.normalise(outputs, gamma, beta, self.epsilon)
            update_running(norm, mean, variance)
            terms.append(term)
            saved += [outputs, mean, variance]
        if self.scales or self.identities:
            ones, zeros = _constants(rows.shape[3])
            centred, mean, variance = operations.normalise(rows, ones, zeros, self.epsilon)
            factor, shift = self._factor_and_shift(values, mean, variance)
            saved += [mean, variance, factor]
            y = operations.weighted_sum(centred, [shift, *terms], factor, self.relu, in_place=True)
        elif len(terms) > 1:
            y = operations.weighted_sum(terms[0], terms[1:], None, self.relu, in_place=True)
        else:
            y = operations.activate(terms[0], builders.RELU, in_place=True) if self.relu else terms[0]
        return y, [*saved, y] if self.relu else saved

    def _factor_and_shift(self, values: Iterator[Tensor], mean: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
        factors, shifts = [], []
        for norm in self.scales:
            kernel, gamma, beta = _take(values, 3)
            weight = kernel.flatten()
            factors.append(gamma * self._ratio(weight, variance))
            shifts.append(beta)
            update_running(norm, weight * mean, weight * weight * variance)
        for norm in self.identities:
            gamma, beta = _take(values, 2)
            factors.append(gamma)
            shifts.append(beta)
            update_running(norm, mean, variance)
        return sum(factors[1:], factors[0]), sum(shifts[1:], shifts[0])

    def _ratio(self, weight: Tensor, variance: Tensor) -> Tensor:
        """ρ."""
        return weight * paddle.sqrt((variance + self.epsilon) / (weight * weight * variance + self.epsilon))

    def backward(self, grad: Tensor, inputs: list[Tensor], saved: list[Tensor], needed: list[bool]) -> list[Any]:
        """See `Operation.backward`."""
        if self.relu:
            grad = operations.activate_gradient(saved[-1], grad, builders.RELU)
        rows, values, kept = saved[0], iter(inputs[1:]), iter(saved[1:])
        x_grads: list[Tensor] = []
        grads: list[Tensor | None] = []
        for _, geometry in self.convs:
            kernel, gamma, _ = _take(values, 3)
            outputs, mean, variance = _take(kept, 3)
            inner, gamma_grad, beta_grad = operations.normalise_gradient(
                outputs, mean, variance, gamma, grad, self.epsilon
            )
            grads += [operations.kernel_gradient(rows, inner, kernel.shape, geometry), gamma_grad, beta_grad]
            if needed[0]:
                x_grads.append(operations.input_gradient(inner, kernel, rows.shape, geometry))
        x_grad = None
        if self.scales or self.identities:
            mean, variance, factor = _take(kept, 3)
            through, factor_grad, shift_grad = operations.normalise_gradient(
                rows, mean, variance, factor, grad, self.epsilon
            )
            x_grads.append(through)
            more, of_variance = self._scale_gradients(values, variance, factor_grad)
            for scale_grads in more:
                grads += [*scale_grads, shift_grad]
            grads += [factor_grad, shift_grad] * len(self.identities)
            if of_variance is not None and needed[0]:
                # what the factor owes to the variance: along x − μ
                along = of_variance * (2 / math.prod(rows.shape[:3]))
                x_grad = operations.weighted_sum(rows, [-mean * along, *x_grads], along)
        if needed[0] and x_grad is None:
            x_grad = x_grads[0]
            if len(x_grads) > 1:
                x_grad = operations.weighted_sum(x_grad, x_grads[1:], in_place=True)
        x_grad = from_channels_last(x_grad) if needed[0] else None
        return [x_grad, *grads]

    def _scale_gradients(
        self, values: Iterator[Tensor], variance: Tensor, factor_grad: Tensor
    ) -> tuple[list[list[Tensor]], Tensor | None]:
        """The gradients of w and γ of each scale, and that of σ² through their ρ."""
        found, of_variance = [], None
        for _ in self.scales:
            kernel, gamma, _ = _take(values, 3)
            weight = kernel.flatten()
            own = weight * weight * variance + self.epsilon
            ratio = self._ratio(weight, variance)
            common = factor_grad * gamma * ratio * self.epsilon / own
            # ∂ρ/∂w = ρ·ε / (w·own), with ρ/w = √((σ² + ε) / own); ∂ρ/∂σ² = ρ·ε·(1 − w²) / (2·(σ² + ε)·own)
            weight_grad = factor_grad * gamma * self.epsilon * paddle.sqrt((variance + self.epsilon) / own) / own
            part = common * (1 - weight * weight) / (2 * (variance + self.epsilon))
            of_variance = part if of_variance is None else of_variance + part
            found.append([weight_grad.reshape(kernel.shape), factor_grad * ratio])
        return found, of_variance


@paddle.no_grad()
def update_running(norm: nn.BatchNorm2D, mean: Tensor, variance: Tensor) -> None:
    """Moves the running statistics towards the batch's, (C,) each, by Paddle's convention."""
    rate = _scalar(1 - norm._momentum, mean.dtype, str(mean.place))
    for running, value in ((norm._mean, mean), (norm._variance, variance)):
        running.lerp_(value, rate)


@functools.lru_cache(maxsize=64)
def _scalar(value: float, dtype: paddle.dtype, place: str) -> Tensor:
    """A tensor of its own for each place; making one anew takes as long as a dozen small operations."""
    return paddle.to_tensor(value, dtype)


@functools.lru_cache(maxsize=64)
def _constants(channels: int) -> tuple[Tensor, Tensor]:
    return paddle.ones([channels], "float32"), paddle.zeros([channels], "float32")


def _take(values: Iterator[Tensor], count: int) -> list[Tensor]:
    return [next(values) for _ in range(count)]


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
