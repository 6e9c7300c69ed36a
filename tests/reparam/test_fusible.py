"""A layer put in another's place that one convolution cannot compute is named, and nothing wrong comes out."""

from __future__ import annotations

import numpy as np
import paddle
import pytest
from paddle import nn

import ppcls_ext
from ppcls_ext.errors import PpclsExtError
from ppcls_ext.models.factories import FACTORIES
from ppcls_ext.reparam.fuse import reparameterizable_layers, require_fusible
from tests.helpers import branch_by_branch, randomise_norms


def conv(kernel: int = 3, padding=1, bias_attr=False, **options) -> nn.Conv2D:
    return nn.Conv2D(48, 48, kernel, 2, padding, bias_attr=bias_attr, **options)


UNFUSIBLE = {
    "bias": (conv(bias_attr=None), "has a bias"),
    "dilation": (conv(dilation=2, padding=2), "another padding"),
    "stride": (nn.Conv2D(48, 48, 3, 1, 1, bias_attr=False), "another stride"),
    "reflecting": (conv(padding_mode="reflect"), "another padding mode"),
    "groups": (conv(groups=2), "another number of groups"),
    "5 px": (conv(5, 2), "a kernel of 5×5 does not fit into one of 3×3"),
    "a linear layer": (nn.Linear(48, 48), "Linear stands where a Conv2D is expected"),
}
NORMS = {
    "GroupNorm": nn.GroupNorm(8, 48),
    "InstanceNorm2D": nn.InstanceNorm2D(48),
    "Identity": nn.Identity(),
    "BatchNorm2D": nn.BatchNorm2D(48, weight_attr=False, bias_attr=False),
}


def refused(model: nn.Layer, said: str) -> None:
    before = {name: value.numpy() for name, value in model.state_dict().items()}
    with pytest.raises(PpclsExtError, match=said):
        ppcls_ext.reparameterize(model)
    with pytest.raises(PpclsExtError, match=said):
        require_fusible(model)
    for layer in reparameterizable_layers(model):
        if layer.fault():
            with pytest.raises(PpclsExtError, match="cannot be fused"):
                layer.re_parameterize()
    assert all((model.state_dict()[name].numpy() == value).all() for name, value in before.items())


@pytest.mark.parametrize("name", UNFUSIBLE)
def test_another_convolution(name):
    model = ppcls_ext.build("RepVGG_A0", class_num=3)
    layer, said = UNFUSIBLE[name]
    model.stage1[0].rbr_dense.conv = layer
    refused(model, rf"stage1\.0 cannot be fused: .*{said}")


@pytest.mark.parametrize("name", NORMS)
def test_another_normalisation(name):
    model = ppcls_ext.build("RepVGG_A0", class_num=3)
    model.stage1[0].rbr_dense.bn = NORMS[name]
    refused(model, rf"stage1\.0 cannot be fused: {name} stands where a BatchNorm2D with weight and bias is expected")
    model = ppcls_ext.build("RepVGG_A0", class_num=3)
    model.stage1[0].rbr_dense = nn.Sequential(conv(), nn.BatchNorm2D(48))
    refused(model, "Sequential stands where")


def test_what_can_be_fused_still_is():
    """Another block altogether, a branch fewer, padding given for each side."""
    model = ppcls_ext.build("RepVGG_A0", class_num=3)
    model.stage0 = nn.Sequential(nn.Conv2D(3, 48, 3, 2, 1), nn.BatchNorm2D(48), nn.ReLU())
    del model.stage1[0].rbr_1x1
    model.stage1[0].rbr_dense.conv = conv(padding=[1, 1])
    randomise_norms(model, 0)
    model.eval()
    x = paddle.randn([2, 3, 32, 32])
    fused = ppcls_ext.reparameterize(model)
    with branch_by_branch():
        expected = model(x).numpy()
    np.testing.assert_allclose(fused(x).numpy(), expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize("name", FACTORIES)
def test_every_net_can_be_fused(name):
    require_fusible(ppcls_ext.build(name, class_num=2))
