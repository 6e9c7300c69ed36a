"""A block of FasterNet as one operation: `x + w · MLP(partial convolution of x)`."""

from __future__ import annotations

from typing import Any

from paddle import Tensor

from ppcls_ext.layers.expand_project import ExpandProject
from ppcls_ext.layers.partial_conv import GEOMETRY
from ppcls_ext.onednn import operations
from ppcls_ext.onednn.maps import Operation, from_channels_last, to_channels_last


class MixedResidual(Operation):
    """Called with x, the partial convolution's kernel, and what `ExpandProject` is called with.

    As operations of their own, x would go to two of them, whose gradients Paddle adds in its own order of memory: three
    copies of each map.

    Args:
        mlp: computes the residual.
        weights: what stochastic depth multiplies each image's by, (N, 1, 1, 1), if anything.
    """

    def __init__(self, mlp: ExpandProject, weights: Tensor | None) -> None:
        self.mlp, self.weights = mlp, weights

    def forward(self, x: Tensor, kernel: Tensor, *parameters: Tensor) -> tuple[Tensor, list[Tensor]]:
        """See `Operation.forward`."""
        rows = to_channels_last(x)
        mixed = operations.convolve_first(rows, kernel, GEOMETRY)
        residual, saved = self.mlp.forward(from_channels_last(mixed), *parameters)
        if self.weights is None:
            return operations.weighted_sum(residual, [rows], in_place=True), [rows, *saved]
        numbers = self.weights.reshape([-1, 1]).expand(x.shape[:2]).contiguous()
        y = operations.by_picture(residual, numbers, product=True, addend=rows, in_place=True)
        return y, [rows, *saved, numbers]

    def backward(self, grad: Tensor, inputs: list[Tensor], saved: list[Tensor], needed: list[bool]) -> list[Any]:
        """See `Operation.backward`."""
        rows, *kept = saved
        of_residual = grad
        if self.weights is not None:
            of_residual = operations.by_picture(grad, kept.pop(), product=True)
        kernel, mixed = inputs[1], from_channels_last(kept[0])
        mixed_grad, *grads = self.mlp.backward(of_residual, [mixed, *inputs[2:]], kept, [True, *needed[2:]])
        mixed_grad = to_channels_last(mixed_grad)
        kernel_grad = x_grad = None
        if needed[1]:
            kernel_grad = operations.kernel_gradient_first(rows, mixed_grad, kernel.shape, GEOMETRY)
        if needed[0]:
            x_grad = operations.input_gradient_first(mixed_grad, kernel, GEOMETRY)
            x_grad = from_channels_last(operations.weighted_sum(x_grad, [grad], in_place=True))
        return [x_grad, kernel_grad, *grads]
