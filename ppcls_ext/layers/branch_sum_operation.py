"""The sum of conv-BN branches with batch statistics as one operation of oneDNN's, with its gradient."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from typing import Any

import paddle
from paddle import Tensor, nn

from ppcls_ext.onednn import builders, operations
from ppcls_ext.onednn.builders import Geometry
from ppcls_ext.onednn.maps import Operation, from_channels_last, to_channels_last


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
