"""Sharpness-aware minimisation: weights whose surroundings have a small loss, not they alone.

Each update takes the gradient not where the weights are, but a step uphill from there, where the loss is largest nearby
(Foret et al., arXiv 2010.01412, algorithm 1). A network that has learnt few images by heart has a steep loss around its
weights, and answers other images worse than one whose surroundings are flat.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator

import paddle
import paddle.distributed as dist
from paddle import nn


class SharpnessAware:
    """Takes gradients a step uphill from the weights.

    Args:
        network: in float32.
        rho: the length of the step, over all weights that learn together.
    """

    def __init__(self, network: nn.Layer, rho: float) -> None:
        self._network, self._rho = network, rho
        kinds = nn.layer.norm._BatchNormBase, nn.BatchNorm
        self._norms = [layer for layer in network.sublayers(include_self=True) if isinstance(layer, kinds)]

    def replace_gradients(self, backward: Callable[[], None]) -> None:
        """Replaces the gradients of the weights by those of the same batch a step uphill; the weights stay as they are.

        Gradients that are zero or not finite say nowhere to go, and stay.

        Args:
            backward: computes the batch once more, and adds its gradients to those of the weights.
        """
        weights = [weight for weight in self._network.parameters() if weight.grad is not None]
        if not weights:
            return
        with paddle.no_grad():
            length = math.sqrt(float(paddle.add_n([weight.grad.square().sum() for weight in weights])))
            if not 0 < length < math.inf:
                return
            before = [weight.clone() for weight in weights]
            for weight in weights:
                weight.add_(weight.grad * (self._rho / length))
                weight.clear_gradient(dist.get_world_size() > 1)
        try:
            with self._statistics_as_they_are():
                backward()
        finally:
            with paddle.no_grad():
                for weight, value in zip(weights, before):
                    paddle.assign(value, output=weight)

    @contextlib.contextmanager
    def _statistics_as_they_are(self) -> Iterator[None]:
        """Running statistics are those of the weights that are kept."""
        momenta = [norm._momentum for norm in self._norms]
        try:
            for norm in self._norms:
                norm._momentum = 1.0
            yield
        finally:
            for norm, momentum in zip(self._norms, momenta):
                norm._momentum = momentum
