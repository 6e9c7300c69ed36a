"""Blocks inside networks of any shape: each is fused once where it stands, and nothing else changes."""

from __future__ import annotations

import copy
import pickle

import paddle
import pytest
from paddle import nn

import ppcls_ext
from ppcls_ext.blocks import MobileOneBlock, RepConv, RepVGGBlock
from ppcls_ext.reparam.fuse import reparameterizable_layers
from tests.helpers import branch_by_branch, relative


class Signed(RepVGGBlock):
    """A subclass with arguments and an operation of its own."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels, activation=None)

    def forward(self, x, activate=True):
        return x - super().forward(x, activate)


class Everywhere(nn.Layer):
    """Blocks in a Sequential, a LayerList, a LayerDict, below other layers, in a subclass, and one used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(MobileOneBlock(3, 8, 3, 2, conv_branches=2), nn.Dropout(0.1), nn.Conv2D(8, 8, 1))
        self.levels = nn.LayerList([RepVGGBlock(8, 8, activation=nn.SiLU), nn.Sequential(MobileOneBlock(8, 8, 5))])
        self.heads = nn.LayerDict({"boxes": RepConv(8, 4, 1, conv_branches=2), "classes": nn.Conv2D(8, 2, 1)})
        self.tower = nn.Sequential(MobileOneBlock(8, 8, 3, groups=8, use_se=True), nn.BatchNorm2D(8))
        self.signed = Signed(8)
        self.shared = self.again = RepVGGBlock(8, 8)

    def forward(self, x):
        x = self.stem(x)
        for level in self.levels:
            x = self.tower(level(x))  # once a level
        x = self.again(self.signed(self.shared(x)))
        return paddle.concat([self.heads["boxes"](x), self.heads["classes"](x)], axis=1)


def trained(net: nn.Layer, steps: int = 3, channels: int = 3) -> nn.Layer:
    """After a few steps, so that weights and statistics are no longer what they were built with; in eval mode."""
    net.train()
    learning = [parameter for parameter in net.parameters() if not parameter.stop_gradient]
    optimizer = paddle.optimizer.Momentum(0.05, parameters=learning)
    for _ in range(steps):
        (net(paddle.randn([4, channels, 12, 16])) ** 2).mean().backward()
        optimizer.step()
        optimizer.clear_grad()
    net.eval()
    return net


def by_definition(net: nn.Layer, x) -> paddle.Tensor:
    with branch_by_branch():
        return net(x)


@pytest.fixture
def net():
    paddle.seed(0)
    return trained(Everywhere())


@pytest.fixture
def x():
    paddle.seed(1)
    return paddle.randn([2, 3, 12, 16])


def test_everywhere(net, x):
    expected = by_definition(net, x)
    fused = ppcls_ext.reparameterize(net)
    assert relative(fused(x), expected) < 1e-5
    assert relative(net(x), expected) < 1e-5
    blocks = list(reparameterizable_layers(fused))
    assert len(blocks) == 7
    assert all(block.is_repped for block in blocks)
    # the tower's own normalisation is no branch
    assert sum(isinstance(layer, nn.BatchNorm2D) for layer in fused.sublayers()) == 1
    assert not any(block.is_repped for block in reparameterizable_layers(net))


def test_a_layer_used_twice_is_fused_once_and_still_shared(net):
    fused = ppcls_ext.reparameterize(net)
    assert fused.shared is fused.again
    names = [name for name in fused.state_dict() if name.startswith(("shared", "again"))]
    assert {name.split(".", 1)[1] for name in names} == {"rbr_reparam.weight", "rbr_reparam.bias"}
    twice = trained(nn.Sequential(net.shared, net.shared), channels=8)
    fused = ppcls_ext.reparameterize(twice)
    assert fused[0] is fused[1]
    y = paddle.randn([1, 8, 5, 5])
    assert relative(fused(y), by_definition(twice, y)) < 1e-5


@pytest.mark.parametrize("shared", ["kernel", "normalisation", "branch", "branches"])
def test_blocks_that_share_weights(shared):
    paddle.seed(0)
    first, second = MobileOneBlock(8, 8, conv_branches=2), MobileOneBlock(8, 8, conv_branches=2)
    if shared == "kernel":
        second.rbr_conv[0].conv.weight = first.rbr_conv[0].conv.weight
    elif shared == "normalisation":
        second.rbr_skip = first.rbr_skip
    elif shared == "branch":
        second.rbr_conv[1] = first.rbr_conv[1]
    else:
        second.rbr_conv = first.rbr_conv
    net = trained(nn.Sequential(first, second), channels=8)
    x = paddle.randn([2, 8, 6, 6])
    expected = by_definition(net, x)
    fused = ppcls_ext.reparameterize(net)
    assert relative(fused(x), expected) < 1e-5
    assert relative(by_definition(net, x), expected) == 0  # the original still shares


@pytest.mark.parametrize("kind", [MobileOneBlock, RepVGGBlock, RepConv])
def test_as_the_root(kind):
    paddle.seed(0)
    block = trained(kind(8, 8), channels=8)
    x = paddle.randn([1, 8, 7, 6])
    assert relative(ppcls_ext.reparameterize(block)(x), by_definition(block, x)) < 1e-5


def test_what_is_frozen_stays_so(x):
    """Parameters, statistics and modes: of a block, of one of its branches, of a normalisation."""
    paddle.seed(0)
    net = Everywhere()
    for parameter in (*net.levels[0].parameters(), *net.shared.rbr_1x1.parameters()):
        parameter.stop_gradient = True
    net.signed.rbr_dense.bn._use_global_stats = True
    trained(net)
    fused = ppcls_ext.reparameterize(net)
    assert relative(fused(x), by_definition(net, x)) < 1e-5
    assert all(parameter.stop_gradient for parameter in fused.levels[0].parameters())
    assert not any(parameter.stop_gradient for parameter in fused.shared.parameters())
    fused.train()
    fused(x).sum().backward()
    assert fused.levels[0].fused_conv.weight.grad is None
    assert fused.shared.fused_conv.weight.grad is not None


def test_copies_pickles_and_state_dicts(net, x):
    expected = net(x)
    for one in (net, ppcls_ext.reparameterize(net)):
        for other in (copy.deepcopy(one), pickle.loads(pickle.dumps(one))):
            assert relative(other(x), expected) < 1e-5
            assert other.state_dict().keys() == one.state_dict().keys()
            assert relative(ppcls_ext.reparameterize(other)(x), expected) < 1e-5
    again = Everywhere()
    again.set_state_dict(net.state_dict())
    again.eval()
    assert relative(again(x), expected) < 1e-6
    # from a fused net's weights into a fused net of other weights
    fresh = ppcls_ext.reparameterize(Everywhere())
    fresh.set_state_dict(ppcls_ext.reparameterize(net).state_dict())
    assert relative(fresh(x), expected) < 1e-5


def test_a_copy_trains_apart_from_its_original(net, x):
    before = {name: value.numpy() for name, value in net.state_dict().items()}
    trained(copy.deepcopy(net))
    assert all((before[name] == value.numpy()).all() for name, value in net.state_dict().items())


def test_the_fused_net_as_a_program(net, x, tmp_path):
    fused = ppcls_ext.reparameterize(net)
    shape = paddle.static.InputSpec([None, 3, None, None], "float32")
    paddle.jit.save(fused, str(tmp_path / "net"), input_spec=[shape])
    assert relative(paddle.jit.load(str(tmp_path / "net"))(x), by_definition(net, x)) < 1e-5
