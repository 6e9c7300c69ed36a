"""What Paddle's optimizers take only when they are built, which PaddleClas does: set in those that it has built."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from paddle import Tensor
from paddle.nn import ClipGradByGlobalNorm
from paddle.optimizer import AdamW, Optimizer
from paddle.regularizer import WeightDecayRegularizer

from ppcls_ext.hosts.adaptation import patch


def clip_global_norm(optimizers: Sequence[Optimizer], norm: float) -> None:
    """Makes each optimizer scale its gradients down together where their joint L2 norm exceeds `norm`.

    As PyTorch does; PaddleClas's `clip_norm` clips each gradient alone.
    """
    for optimizer in optimizers:
        patch(optimizer, "_grad_clip", ClipGradByGlobalNorm(norm))


class WeightDecay:
    """A weight decay that can be changed between updates.

    SGD and Momentum add `coefficient·w` to the clipped gradient, as in PyTorch; AdamW multiplies the weights by
    `1 − learning rate·coefficient`.

    Args:
        kernels: the weights that decay; all others do not.
        optimizers: without a decay of their own.
    """

    def __init__(self, kernels: Sequence[Tensor], optimizers: Sequence[Optimizer]) -> None:
        self._coupled = _Decay()
        self._decoupled = [optimizer for optimizer in optimizers if isinstance(optimizer, AdamW)]
        names = {kernel.name for kernel in kernels}
        for optimizer in self._decoupled:
            patch(optimizer, "_apply_decay_param_fun", names.__contains__)
        decoupled = {parameter.name for optimizer in self._decoupled for parameter in optimizer._parameter_list}
        for kernel in kernels:
            if kernel.name not in decoupled:
                patch(kernel, "regularizer", self._coupled)

    def set(self, coefficient: float) -> None:
        """Sets the coefficient of the updates to come."""
        self._coupled.coefficient = coefficient
        for optimizer in self._decoupled:
            patch(optimizer, "_weight_decay", coefficient)


class _Decay(WeightDecayRegularizer):
    """`coefficient·w`, which optimizers add to the clipped gradient.

    Not Paddle's L2Decay: Momentum reads that one's coefficient once, at its first update.
    """

    coefficient = 0.0

    def __call__(self, param: Tensor, grad: Tensor, block: Any) -> Tensor:
        return param * self.coefficient

    def __str__(self) -> str:
        return f"weight decay {self.coefficient:g}"
