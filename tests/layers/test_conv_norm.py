"""`ConvNorm` and `PartialConv` with another convolution put in: the result is that of the layers inside."""

from __future__ import annotations

import paddle
import pytest
from paddle import nn

from ppcls_ext.layers.conv_norm import ConvNorm
from ppcls_ext.layers.fasternet_block import PartialConv
from tests.helpers import randomise_norms, relative

CONVOLUTIONS = [
    nn.Conv2D(6, 8, 1, bias_attr=False),
    nn.Conv2D(6, 8, 1, bias_attr=nn.initializer.Normal()),
    nn.Conv2D(6, 8, 1, padding=1, bias_attr=False),
    nn.Conv2D(6, 8, 1, stride=2, bias_attr=False),
    nn.Conv2D(6, 8, 1, groups=2, bias_attr=False),
]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("conv", CONVOLUTIONS)
def test_conv_norm(conv, training):
    paddle.seed(0)
    layer = ConvNorm(6, 8, 1, 1, ("conv", "norm"))
    randomise_norms(layer, 0)
    layer.conv = conv
    layer.train() if training else layer.eval()
    x = paddle.randn([2, 6, 7, 5])
    expected = layer.norm(nn.Conv2D.forward(conv, x))
    assert relative(layer(x), expected) < 1e-5


@pytest.mark.parametrize(
    "conv",
    [
        nn.Conv2D(3, 3, 3, padding=1, bias_attr=False),
        nn.Conv2D(3, 3, 3, padding=1),
        nn.Conv2D(3, 3, 5, padding=2, bias_attr=False),
        nn.Conv2D(3, 2, 3, padding=1, bias_attr=False),
        nn.Conv2D(3, 3, 3, padding=1, groups=3, bias_attr=False),
    ],
)
def test_partial_conv(conv):
    layer = PartialConv(8, 3)
    layer.partial_conv3 = conv
    x = paddle.randn([2, 8, 7, 5])
    assert relative(layer(x), paddle.concat([nn.Conv2D.forward(conv, x[:, :3]), x[:, 3:]], axis=1)) < 1e-5
