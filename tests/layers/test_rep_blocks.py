"""The blocks that are public: what each argument does, that fused equals unfused, and what is refused."""

from __future__ import annotations

import functools

import paddle
import pytest
from paddle import nn

import ppcls_ext
from ppcls_ext.blocks import MobileOneBlock, RepConv, RepVGGBlock
from ppcls_ext.errors import PpclsExtError
from tests.helpers import branch_by_branch, float64, randomise_norms, relative

KINDS = {
    "MobileOneBlock": functools.partial(MobileOneBlock, conv_branches=2),
    "RepVGGBlock": RepVGGBlock,
    "RepConv": functools.partial(RepConv, conv_branches=3),
}
ARGUMENTS = {
    **{f"{size}×{size}": {"kernel_size": size} for size in (1, 3, 5, 7)},
    "strided": {"kernel_size": 5, "stride": 2},
    "grouped": {"kernel_size": 3, "groups": 2},
    "depthwise": {"kernel_size": 7, "groups": 8},
    "dilated": {"kernel_size": 3, "dilation": 2},
    "dilated, strided, grouped": {"kernel_size": 5, "dilation": 3, "stride": 2, "groups": 4},
}


def evaluated(block: nn.Layer, seed: int = 0) -> nn.Layer:
    randomise_norms(block, seed)
    block.eval()
    return block


@pytest.mark.parametrize("out_channels", [8, 16])
@pytest.mark.parametrize("arguments", ARGUMENTS.values(), ids=ARGUMENTS)
@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_fused_equals_unfused(kind, arguments, out_channels):
    paddle.seed(0)
    with float64():
        block = kind(8, out_channels, **arguments)
    evaluated(block)
    x = paddle.randn([2, 8, 17, 12], dtype="float64")
    with branch_by_branch():
        expected = block(x)
    stride = arguments.get("stride", 1)
    assert expected.shape == [2, out_channels, -(-17 // stride), -(-12 // stride)]
    fused = ppcls_ext.reparameterize(block)
    assert relative(fused(x), expected) < 1e-10
    assert relative(block(x), expected) < 1e-10
    assert relative(block.run_fused(x), block.sum_of_branches(x)) < 1e-10
    assert [type(layer) for layer in fused.sublayers()] == [nn.Conv2D]
    assert fused.fused_conv.weight.shape[2:] == [arguments.get("kernel_size", 3)] * 2
    # weights that are fused load into a block that starts fused
    with float64():
        fresh = kind(8, out_channels, **arguments, fused=True)
    fresh.eval()
    fresh.set_state_dict(fused.state_dict())
    assert relative(fresh(x), expected) < 1e-10


@pytest.mark.parametrize("use_se", [False, True])
@pytest.mark.parametrize("kind", [MobileOneBlock, RepVGGBlock])
@pytest.mark.parametrize(
    ("activation", "function"),
    [
        (nn.ReLU, nn.functional.relu),
        (nn.SiLU, nn.functional.silu),
        (nn.Hardswish, nn.functional.hardswish),
        (functools.partial(nn.LeakyReLU, 0.3), lambda y: nn.functional.leaky_relu(y, 0.3)),
        (None, lambda y: y),
    ],
    ids=["ReLU", "SiLU", "Hardswish", "LeakyReLU", "none"],
)
def test_activation_and_squeeze_excite(kind, activation, function, use_se):
    paddle.seed(0)
    block = kind(16, 16, use_se=use_se, activation=activation)
    block.train()
    x = paddle.randn([2, 16, 6, 5])
    expected = block.sum_of_branches(x)
    if use_se:
        expected = block.se(expected)
    assert relative(block(x), function(expected)) < 1e-5
    evaluated(block)
    with branch_by_branch():
        expected = block(x)
    assert relative(ppcls_ext.reparameterize(block)(x), expected) < 1e-5
    if activation is None:
        assert float(expected.min()) < 0


def test_an_activation_with_parameters_is_kept():
    block = MobileOneBlock(8, 8, activation=functools.partial(nn.PReLU, 8))
    fused = ppcls_ext.reparameterize(evaluated(block))
    assert set(fused.state_dict()) == {"reparam_conv.weight", "reparam_conv.bias", "activation._weight"}
    x = paddle.randn([1, 8, 5, 5])
    assert relative(fused(x), block(x)) < 1e-5


@pytest.mark.parametrize("dilation", [1, 2])
def test_gradients_reach_every_branch(dilation):
    block = MobileOneBlock(8, 8, 5, conv_branches=2, dilation=dilation, activation=nn.SiLU, use_se=True)
    block.train()
    (block(paddle.randn([2, 8, 9, 9])) ** 2).mean().backward()
    learning = [parameter for parameter in block.parameters() if not parameter.stop_gradient]  # no running statistics
    assert len(learning) == 15
    assert all(float(parameter.grad.abs().max()) > 0 for parameter in learning)


def test_names_in_the_state_dict():
    """Those of the official codes, so that their weights load; RepConv's can be chosen."""
    parts = {name.split(".")[0] for name in MobileOneBlock(4, 4).state_dict()}
    assert parts == {"rbr_conv", "rbr_scale", "rbr_skip"}
    assert {name.split(".")[0] for name in RepVGGBlock(4, 4).state_dict()} == {"rbr_dense", "rbr_1x1", "rbr_identity"}
    assert {name.split(".")[0] for name in RepConv(4, 4).state_dict()} == {"conv", "scale", "identity"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kernel_size": 4}, "kernel_size of MobileOneBlock is 4: expected an odd number from 1"),
        ({"kernel_size": (3, 3)}, r"kernel_size of MobileOneBlock is \(3, 3\)"),
        ({"stride": 0}, "stride of MobileOneBlock is 0: expected a whole number from 1"),
        ({"dilation": 1.5}, "dilation of MobileOneBlock is 1.5"),
        ({"conv_branches": 0}, "conv_branches of MobileOneBlock is 0"),
        ({"groups": 3}, "in_channels of MobileOneBlock is 8: expected a multiple of groups, 3"),
        ({"out_channels": 6, "groups": 4}, "out_channels of MobileOneBlock is 6: expected a multiple of groups, 4"),
        ({"activation": "silu"}, "activation is 'silu': expected a class of layers such as paddle.nn.SiLU"),
        ({"activation": nn.SiLU()}, "activation is Silu"),
        ({"activation": dict}, "activation is <class 'dict'>"),
    ],
)
def test_wrong_arguments_are_named(arguments, message):
    with pytest.raises(PpclsExtError, match=message):
        MobileOneBlock(**{"in_channels": 8, "out_channels": 8, **arguments})


def test_another_dilation_is_not_fused():
    block = RepVGGBlock(8, 8)
    block.rbr_dense.conv = nn.Conv2D(8, 8, 3, padding=1, dilation=2, bias_attr=False)
    with pytest.raises(PpclsExtError, match="another dilation"):
        ppcls_ext.reparameterize(block)
