"""A pointwise conv-BN, an activation and a pointwise convolution as one operation, which keeps one map of them."""

from __future__ import annotations

from typing import Any

from paddle import Tensor, nn

from ppcls_ext.layers.branch_sum_operation import update_running
from ppcls_ext.onednn import builders, operations
from ppcls_ext.onednn.builders import Geometry
from ppcls_ext.onednn.maps import Operation, from_channels_last, to_channels_last

_GEOMETRY = Geometry()


class ExpandProject(Operation):
    """`P · activation(BN(K · x))`; called with x, K, γ, β, P.

    What lies between the two convolutions is computed again for the gradient, in a pass or two: it would be half (ReLU)
    or two thirds (GELU) of what a block of FasterNet keeps.

    Args:
        norm: the batch normalisation.
        activation: `builders.RELU` or `builders.GELU`.
    """

    def __init__(self, norm: nn.BatchNorm2D, activation: int) -> None:
        self.norm, self.epsilon, self.activation = norm, norm._epsilon, activation

    def forward(self, x: Tensor, *parameters: Tensor) -> tuple[Tensor, list[Tensor]]:
        """See `Operation.forward`."""
        rows, (kernel, gamma, beta, project) = to_channels_last(x), parameters
        hidden = operations.convolve(rows, kernel, None, _GEOMETRY)
        y, mean, variance = operations.normalise(hidden, gamma, beta, self.epsilon)
        update_running(self.norm, mean, variance)
        y = operations.activate(y, self.activation, in_place=True)
        return operations.convolve(y, project, None, _GEOMETRY), [rows, hidden, mean, variance]

    def backward(self, grad: Tensor, inputs: list[Tensor], saved: list[Tensor], needed: list[bool]) -> list[Any]:
        """See `Operation.backward`."""
        _, kernel, gamma, beta, project = inputs
        rows, hidden, mean, variance = saved
        given = operations.normalise_by(hidden, mean, variance, gamma, beta, self.epsilon)
        in_place = self.activation == builders.RELU  # whose gradient asks for its output
        activated = operations.activate(given, self.activation, in_place)
        project_grad = operations.kernel_gradient(activated, grad, project.shape, _GEOMETRY)
        del activated
        inner = operations.input_gradient(grad, project, hidden.shape, _GEOMETRY)
        inner = operations.activate_gradient(given, inner, self.activation)
        del given
        inner, gamma_grad, beta_grad = operations.normalise_gradient(hidden, mean, variance, gamma, inner, self.epsilon)
        kernel_grad = operations.kernel_gradient(rows, inner, kernel.shape, _GEOMETRY)
        x_grad = None
        if needed[0]:
            x_grad = from_channels_last(operations.input_gradient(inner, kernel, rows.shape, _GEOMETRY))
        return [x_grad, kernel_grad, gamma_grad, beta_grad, project_grad]
