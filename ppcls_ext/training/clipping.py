"""Clipping of the norm of all gradients together, as in PyTorch; PaddleClas's `clip_norm` clips each one alone."""

from __future__ import annotations

from paddle.nn import ClipGradByGlobalNorm
from paddle.optimizer import Optimizer


def clip_global_norm(optimizers: list[Optimizer], norm: float) -> None:
    """Makes each optimizer scale its gradients down together where their joint L2 norm exceeds `norm`."""
    for optimizer in optimizers:
        optimizer._grad_clip = ClipGradByGlobalNorm(norm)
