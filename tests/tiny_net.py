"""A tiny network with everything that the families hold."""

from __future__ import annotations

import paddle
from paddle import nn

from ppcls_ext.data.image_rule import Preprocessing
from ppcls_ext.models.fasternet import FasterNetBlock
from ppcls_ext.models.mobileone import MobileOneBlock
from ppcls_ext.predict.metadata import Metadata
from tests.helpers import randomise_norms

CLASSES = ("Gänseblümchen", "菊花", 'a "quoted" name', "rose", "🌻")
PIXELS = 16


class TinyNet(nn.Layer):
    """All kinds of branches, squeeze-and-excitation, a split and a concatenation, GELU."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = MobileOneBlock(3, 16, 3, 2, conv_branches=1)
        self.depthwise = MobileOneBlock(16, 16, 3, 1, groups=16, conv_branches=2, use_se=True)
        self.pointwise = MobileOneBlock(16, 16, 1, 1, conv_branches=2)
        self.partial = FasterNetBlock(16, nn.GELU, 0.0, False)
        self.pool = nn.AdaptiveAvgPool2D(1)
        self.flatten = nn.Flatten()
        self.linear = nn.Linear(16, len(CLASSES))

    def forward(self, x):
        x = self.partial(self.pointwise(self.depthwise(self.stem(x))))
        return self.linear(self.flatten(self.pool(x)))


METADATA = Metadata("TinyNet", Preprocessing(resize_short=20, crop=(PIXELS, PIXELS)), CLASSES)


def make_net(seed: int = 0) -> TinyNet:
    """A network with random statistics, in train mode."""
    paddle.seed(seed)
    net = TinyNet()
    randomise_norms(net, seed)
    return net
