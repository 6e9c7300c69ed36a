"""FasterNet's partial convolution (arXiv 2303.03667, section 3.2)."""

from __future__ import annotations

from typing import Any

import paddle
from paddle import Tensor, nn

from ppcls_ext.onednn import operations
from ppcls_ext.onednn.builders import Geometry
from ppcls_ext.onednn.convolution import can_convolve, plain_geometry
from ppcls_ext.onednn.maps import Operation, from_channels_last, learns, to_channels_last

GEOMETRY = Geometry(padding=1)


class PartialConv(nn.Layer):
    """A 3×3 convolution over the first channels; the others pass.

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
