"""Squeeze-and-excitation (arXiv 1709.01507), as MobileOne and RepVGG use it after the sum of branches."""

from __future__ import annotations

from typing import Any

import paddle
from paddle import Tensor, nn

from ppcls_ext.onednn import operations
from ppcls_ext.onednn.bfloat16 import to_float32
from ppcls_ext.onednn.builders import Geometry
from ppcls_ext.onednn.convolution import plain_geometry, run_conv
from ppcls_ext.onednn.elementwise import is_plain
from ppcls_ext.onednn.maps import (
    Operation,
    as_float32,
    elementwise,
    from_channels_last,
    is_channels_last,
    learns,
    to_channels_last,
    usable,
)
from ppcls_ext.onednn.statistics import image_sums


class SqueezeExcite(nn.Layer):
    """Scales each channel by a gate computed from all channels' means.

    Args:
        channels: of the map.
        squeezed: channels between the two 1×1 convolutions.
        names: of the two convolutions in the state dict.
    """

    def __init__(self, channels: int, squeezed: int, names: tuple[str, str]) -> None:
        super().__init__()
        self.names = names
        self.pool = nn.AdaptiveAvgPool2D(1)
        self.add_sublayer(names[0], nn.Conv2D(channels, squeezed, 1))
        self.add_sublayer(names[1], nn.Conv2D(squeezed, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        """`x: (N, C, H, W)` → the same shape."""
        reduce, expand = convs = [self._sub_layers[name] for name in self.names]
        parameters = [value for conv in convs for value in (conv.weight, conv.bias)]  # set on every path: to_static
        if (
            is_channels_last(x)
            and self._is_as_built(*convs)
            and usable(x, *parameters, training=self.training or learns(*parameters))
        ):
            return _Gate()(x, *parameters)
        x = as_float32(x)
        gate = nn.functional.sigmoid(run_conv(expand, nn.functional.relu(run_conv(reduce, self.pool(x)))))
        return elementwise(paddle.multiply, x, gate)

    def _is_as_built(self, reduce: nn.Conv2D, expand: nn.Conv2D) -> bool:
        return is_plain(self.pool, nn.AdaptiveAvgPool2D) and all(
            plain_geometry(conv) == Geometry() and conv.bias is not None and conv.weight.shape[2:] == [1, 1]
            for conv in (reduce, expand)
        )


class _Gate(Operation):
    """`x · sigmoid(E relu(R mean(x) + r) + e)`; called with x, R, r, E, e. Paddle's own takes twenty times as long."""

    mixes = False

    def forward(self, x: Tensor, *parameters: Tensor) -> tuple[Tensor, list[Tensor]]:
        rows = to_channels_last(x)
        reduce, reduce_bias, expand, expand_bias = parameters
        means = image_sums(rows) / (rows.shape[1] * rows.shape[2])
        squeezed = nn.functional.relu(nn.functional.linear(means, reduce.flatten(1).t(), reduce_bias))
        gate = nn.functional.sigmoid(nn.functional.linear(squeezed, expand.flatten(1).t(), expand_bias))
        return operations.by_picture(rows, gate, product=True), [rows, means, squeezed, gate]

    def backward(self, grad: Tensor, inputs: list[Tensor], saved: list[Tensor], needed: list[bool]) -> list[Any]:
        rows, means, squeezed, gate = saved
        _, reduce, _, expand, _ = inputs
        of_gate = image_sums(to_float32(grad) * to_float32(rows)) * gate * (1 - gate)
        of_squeezed = paddle.matmul(of_gate, expand.flatten(1)) * (squeezed > 0).astype("float32")
        x_grad = None
        if needed[0]:
            of_means = paddle.matmul(of_squeezed, reduce.flatten(1)) / (rows.shape[1] * rows.shape[2])
            x_grad = operations.by_picture(grad, gate, product=True)
            x_grad = from_channels_last(operations.by_picture(x_grad, of_means, product=False, in_place=True))
        return [
            x_grad,
            paddle.matmul(of_squeezed, means, transpose_x=True).reshape(reduce.shape),
            of_squeezed.sum(0),
            paddle.matmul(of_gate, squeezed, transpose_x=True).reshape(expand.shape),
            of_gate.sum(0),
        ]
