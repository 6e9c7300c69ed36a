"""The parts of a FasterNet block: partial convolution, stochastic depth, GELU, and the block as one operation."""

from __future__ import annotations

from typing import Any

import paddle
from paddle import Tensor, nn
from paddle.base.layer_helper import LayerHelper

from ppcls_ext.layers.branch_sum import update_running
from ppcls_ext.onednn import builders, operations
from ppcls_ext.onednn.builders import Geometry
from ppcls_ext.onednn.convolution import can_convolve, plain_geometry
from ppcls_ext.onednn.elementwise import gelu
from ppcls_ext.onednn.maps import (
    Operation,
    as_float32,
    elementwise,
    from_channels_last,
    is_bfloat16,
    learns,
    to_channels_last,
)

#: Of the partial convolution, and of the pointwise ones.
GEOMETRY, _POINTWISE = Geometry(padding=1), Geometry()


class PartialConv(nn.Layer):
    """A 3×3 convolution over the first channels; the others pass (arXiv 2303.03667, section 3.2).

    Args:
        channels: of the map.
        mixed: how many of them are convolved.
    """

    def __init__(self, channels: int, mixed: int) -> None:
        super().__init__()
        self.mixed = mixed
        self.sections = [mixed, channels - mixed]
        self.partial_conv3 = nn.Conv2D(mixed, mixed, 3, padding=1, bias_attr=False)

    def forward(self, x: Tensor) -> Tensor:
        """`x: (N, channels, H, W)` → the same shape."""
        conv = self.partial_conv3
        if self.by_onednn(x):
            return _PartialConvolution()(x, conv.weight)
        x = as_float32(x)
        mixed, passed = paddle.split(x, self.sections, axis=1)
        return paddle.concat([conv(mixed), passed], axis=1)

    def by_onednn(self, x: Tensor) -> bool:
        """Whether oneDNN computes it of such a map: the convolution is as it was built, and nobody watches it."""
        conv = self.partial_conv3
        as_built = plain_geometry(conv) == GEOMETRY and conv.bias is None
        as_built = as_built and conv.weight.shape == [self.mixed, self.mixed, 3, 3]
        return as_built and can_convolve(x, conv.weight, GEOMETRY, conv.training or learns(conv.weight), self.mixed)


class _PartialConvolution(Operation):
    """In one copy of the map, of which oneDNN reads and writes the first channels."""

    def forward(self, x: Tensor, kernel: Tensor) -> tuple[Tensor, list[Tensor]]:
        rows = to_channels_last(x)
        return operations.convolve_first(rows, kernel, GEOMETRY), [rows]

    def backward(self, grad: Tensor, inputs: list[Tensor], saved: list[Tensor], needed: list[bool]) -> list[Any]:
        (rows,), kernel = saved, inputs[1]
        x_grad = kernel_grad = None
        if needed[0]:
            x_grad = from_channels_last(operations.input_gradient_first(grad, kernel, GEOMETRY))
        if needed[1]:
            kernel_grad = operations.kernel_gradient_first(rows, grad, kernel.shape, GEOMETRY)
        return [x_grad, kernel_grad]


class DropPath(nn.Layer):
    """While training, zeroes a residual branch for a random share of the images and scales the others up.

    Source: "Deep Networks with Stochastic Depth", arXiv 1603.09382, per image.

    Args:
        rate: the share of images, 0 to 1 (excluded).
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        """`x: (N, C, H, W)` → the same shape, with the same expectation."""
        weights = self.draw(x)
        return x if weights is None else elementwise(paddle.multiply, x, weights)

    def draw(self, x: Tensor) -> Tensor | None:
        """What the images are multiplied by this time, (N, 1, 1, 1); None where all pass."""
        if not self.training or self.rate == 0:
            return None
        keep = paddle.full([x.shape[0], 1, 1, 1], 1 - self.rate, dtype="float32")
        weights = paddle.bernoulli(keep) / (1 - self.rate)
        return weights if is_bfloat16(x) else weights.astype(x.dtype)


class GELU(nn.GELU):
    """Paddle's GELU; where a program in the old format (`.pdmodel`) is being made, its operator is put there by hand.

    Paddle 3.3's own function no longer knows that format (`paddle/base/dygraph/generated_tensor_methods_patch.py`).
    """

    def forward(self, x: Tensor) -> Tensor:
        """`x` of any shape → the same shape."""
        if paddle.in_dynamic_mode() or paddle.framework.in_pir_mode():
            return gelu(x, self.training)
        helper = LayerHelper("gelu")
        out = helper.create_variable_for_type_inference(x.dtype)
        helper.append_op(type="gelu", inputs={"X": x}, outputs={"Out": out}, attrs={"approximate": False})
        return out


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
        hidden = operations.convolve(rows, kernel, None, _POINTWISE)
        y, mean, variance = operations.normalise(hidden, gamma, beta, self.epsilon)
        update_running(self.norm, mean, variance)
        y = operations.activate(y, self.activation, in_place=True)
        return operations.convolve(y, project, None, _POINTWISE), [rows, hidden, mean, variance]

    def backward(self, grad: Tensor, inputs: list[Tensor], saved: list[Tensor], needed: list[bool]) -> list[Any]:
        """See `Operation.backward`."""
        _, kernel, gamma, beta, project = inputs
        rows, hidden, mean, variance = saved
        given = operations.normalise_by(hidden, mean, variance, gamma, beta, self.epsilon)
        in_place = self.activation == builders.RELU  # whose gradient asks for its output
        activated = operations.activate(given, self.activation, in_place)
        project_grad = operations.kernel_gradient(activated, grad, project.shape, _POINTWISE)
        del activated
        inner = operations.input_gradient(grad, project, hidden.shape, _POINTWISE)
        inner = operations.activate_gradient(given, inner, self.activation)
        del given
        inner, gamma_grad, beta_grad = operations.normalise_gradient(hidden, mean, variance, gamma, inner, self.epsilon)
        kernel_grad = operations.kernel_gradient(rows, inner, kernel.shape, _POINTWISE)
        x_grad = None
        if needed[0]:
            x_grad = from_channels_last(operations.input_gradient(inner, kernel, rows.shape, _POINTWISE))
        return [x_grad, kernel_grad, gamma_grad, beta_grad, project_grad]


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
