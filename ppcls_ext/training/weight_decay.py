"""Weight decay annealed by a cosine, on kernels only (MobileOne, arXiv 2206.04040: from 1e-4 to 1e-5).

Update t of T uses `end + (start − end)·(1 + cos(π·t / T)) / 2`. SGD and Momentum add `coefficient·w` to the gradient,
behind clipping, as in PyTorch; AdamW multiplies the weights by `1 − learning rate·coefficient`. Whatever has one
dimension, the scales and biases, does not decay.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from paddle import Tensor
from paddle.optimizer import AdamW, Optimizer
from paddle.regularizer import WeightDecayRegularizer

from ppcls_ext.config.recipe import Decay


class AnnealedDecay:
    """Weight decay of given kernels in given optimizers.

    Args:
        settings: the first and the last coefficient.
        updates: of the whole training, T.
        kernels: what decays.
        optimizers: PaddleClas's, without a decay of their own.
    """

    def __init__(self, settings: Decay, updates: int, kernels: Sequence[Tensor], optimizers: list[Optimizer]) -> None:
        self._settings, self._updates = settings, updates
        self._coupled = _Decay()
        self._decoupled = [optimizer for optimizer in optimizers if isinstance(optimizer, AdamW)]
        names = {kernel.name for kernel in kernels}
        for optimizer in self._decoupled:
            optimizer._apply_decay_param_fun = names.__contains__
        decoupled = {parameter.name for optimizer in self._decoupled for parameter in optimizer._parameter_list}
        for kernel in kernels:
            if kernel.name not in decoupled:
                kernel.regularizer = self._coupled

    def set(self, step: int) -> float:
        """Sets, and returns, the coefficient of the update number `step`, counted from 0."""
        start, end = self._settings
        coefficient = end + (start - end) * (1 + math.cos(math.pi * step / self._updates)) / 2
        self._coupled.coefficient = coefficient
        for optimizer in self._decoupled:
            optimizer._weight_decay = coefficient
        return coefficient


class _Decay(WeightDecayRegularizer):
    """`coefficient·w`, which optimizers add to the clipped gradient.

    Not Paddle's L2Decay: Momentum reads that one's coefficient once, at its first update.
    """

    coefficient = 0.0

    def __call__(self, param: Tensor, grad: Tensor, block: Any) -> Tensor:
        return param * self.coefficient

    def __str__(self) -> str:
        return f"weight decay {self.coefficient:g}"
