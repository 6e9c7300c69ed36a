"""Random architectures: whatever the kernels, strides, groups, branches and gates, fused = unfused."""

from __future__ import annotations

import paddle
from hypothesis import given, settings
from hypothesis import strategies as st
from paddle import nn

from ppcls_ext.layers.conv_norm import ConvNorm
from ppcls_ext.layers.rep_conv import BranchNames, RepConv
from ppcls_ext.layers.squeeze_excite import SqueezeExcite
from ppcls_ext.reparam.fuse import reparameterize
from tests.helpers import branch_by_branch, float64, randomise_norms, relative

NAMES = BranchNames("conv", "scale", "identity", "fused")
CHANNELS = 12


@st.composite
def layers(draw) -> nn.Layer:
    """One re-parameterizable layer from 12 to 12·n channels and back, with a gate and an activation behind it."""
    groups = draw(st.sampled_from([1, 2, 3, 4, 6, CHANNELS]))
    out_channels = CHANNELS * draw(st.integers(1, 2))
    stride = draw(st.integers(1, 3))
    if draw(st.booleans()):
        count = draw(st.none() | st.integers(1, 5))
        size = draw(st.sampled_from([1, 3, 5, 7]))
        dilation = draw(st.sampled_from([1, 1, 2, 3]))
        layer = RepConv(CHANNELS, out_channels, size, stride, groups, NAMES, count, dilation=dilation)
    else:
        layer = ConvNorm(CHANNELS, out_channels, draw(st.integers(1, 3)), stride, ("conv", "norm"))
    parts = [layer]
    if draw(st.booleans()):
        parts.append(SqueezeExcite(out_channels, 3, ("down", "up")))
    parts.append(draw(st.sampled_from([nn.ReLU, nn.GELU, nn.Identity]))())
    if out_channels != CHANNELS:
        parts.append(RepConv(out_channels, CHANNELS, 1, 1, draw(st.sampled_from([1, 3])), NAMES, 2))
    return nn.Sequential(*parts)


@settings(max_examples=60, deadline=None)
@given(data=st.data(), height=st.integers(7, 12), width=st.integers(7, 12), seed=st.integers(0, 2**31))
def test_any_architecture(data, height, width, seed):
    paddle.seed(seed)
    with float64():
        model = nn.Sequential(*data.draw(st.lists(layers(), min_size=1, max_size=3)))
    randomise_norms(model, seed)
    model.eval()
    x = paddle.randn([2, CHANNELS, height * 4, width * 4], dtype="float64")
    fused = reparameterize(model)
    with branch_by_branch():
        expected = model(x)
    assert relative(fused(x), expected) < 1e-9
    assert relative(model(x), expected) < 1e-9
    assert not any(isinstance(layer, nn.BatchNorm2D) for layer in fused.sublayers())
    assert sum(isinstance(layer, nn.Conv2D) for layer in fused.sublayers()) == sum(
        1 if isinstance(layer, (RepConv, ConvNorm)) else 2 * isinstance(layer, SqueezeExcite)
        for layer in model.sublayers()
    )
