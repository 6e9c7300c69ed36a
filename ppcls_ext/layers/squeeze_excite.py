"""Squeeze-and-excitation (arXiv 1709.01507), as MobileOne and RepVGG use it after the sum of branches."""

from __future__ import annotations

import paddle
from paddle import Tensor, nn

from ppcls_ext.onednn.convolution import run_conv
from ppcls_ext.onednn.maps import elementwise


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
        reduce, expand = (self._sub_layers[name] for name in self.names)
        gate = nn.functional.sigmoid(run_conv(expand, nn.functional.relu(run_conv(reduce, self.pool(x)))))
        return elementwise(paddle.multiply, x, gate)
