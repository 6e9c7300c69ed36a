"""The algebra of structural re-parameterization, written once.

In eval mode batch normalisation is affine, so a branch `BN(K * x)` equals a convolution with kernel `K·t` and bias
`β − μ·t`, where `t = γ / √(σ² + ε)` per output channel. Branches that read the same input add: so do their kernels,
once they have one size (a smaller kernel is padded with zeros around its centre; no convolution at all is an identity
kernel), and their biases. What comes after the sum (squeeze-and-excitation, the activation) stays outside.

Sources: RepVGG (arXiv 2101.03697, section 3.3), MobileOne (arXiv 2206.04040, section 3.2).

Everything is computed in float64 and cast once by the caller: float32 sums of many branches lose digits that the
comparison of fused and unfused models would show. All functions are differentiable.
"""

from __future__ import annotations

from typing import NamedTuple

import paddle
from paddle import Tensor, nn

from ppcls_ext.errors import PpclsExtError


class Branch(NamedTuple):
    """One branch of a sum: a convolution, or the identity where `kernel` is None, then a batch normalisation.

    `kernel: (out, in / groups, k, k)`.
    """

    kernel: Tensor | None
    norm: nn.BatchNorm2D


def fold_norm(kernel: Tensor, norm: nn.BatchNorm2D) -> tuple[Tensor, Tensor]:
    """Folds a batch normalisation into the convolution before it.

    Args:
        kernel: (out, in / groups, k, k), any float type.
        norm: over `out` channels; its running statistics are used.

    Returns:
        Kernel (out, in / groups, k, k) and bias (out,), float64.
    """
    scale = norm.weight.astype("float64") / paddle.sqrt(norm._variance.astype("float64") + norm._epsilon)
    bias = norm.bias.astype("float64") - norm._mean.astype("float64") * scale
    return kernel.astype("float64") * scale.reshape([-1, 1, 1, 1]), bias


def pad_kernel(kernel: Tensor, size: int) -> Tensor:
    """Zero-pads a kernel (out, in / groups, k, k) around its centre to (out, in / groups, size, size)."""
    margin, odd = divmod(size - kernel.shape[-1], 2)
    if margin < 0 or odd:
        raise PpclsExtError(f"cannot centre a {kernel.shape[-1]} px kernel in {size} px: use sizes of one parity")
    return nn.functional.pad(kernel, [margin] * 4) if margin else kernel


def identity_kernel(channels: int, groups: int, size: int) -> Tensor:
    """The kernel (channels, channels / groups, size, size), float64, of the convolution that returns its input.

    Output channel i reads channel `i mod (channels / groups)` of its group, at the centre.
    """
    per_group = channels // groups
    centre = paddle.eye(per_group, dtype="float64").tile([groups, 1]).reshape([channels, per_group, 1, 1])
    return pad_kernel(centre, size)


def fold_branches(branches: list[Branch], groups: int, size: int) -> tuple[Tensor, Tensor]:
    """Kernel and bias of the one convolution that equals the sum of all branches in eval mode.

    Args:
        branches: at least one; all read the same input with the same stride.
        groups: of every branch.
        size: of the resulting kernel, px.

    Returns:
        Kernel (out, in / groups, size, size) and bias (out,), float64.
    """
    folded = []
    for kernel, norm in branches:
        if kernel is None:
            kernel = identity_kernel(norm.weight.shape[0], groups, size)
        folded.append(fold_norm(pad_kernel(kernel, size), norm))
    kernels, biases = zip(*folded)
    return sum(kernels[1:], kernels[0]), sum(biases[1:], biases[0])
