"""Stochastic depth."""

from __future__ import annotations

import paddle
from paddle import Tensor, nn

from ppcls_ext.onednn.maps import elementwise


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
        return (paddle.bernoulli(keep) / (1 - self.rate)).astype(x.dtype)
