"""The algebra of fusion: one convolution equals the sum of its branches, and would not without any part of it."""

from __future__ import annotations

import paddle
import pytest
from paddle import nn

from ppcls_ext.errors import PpclsExtError
from ppcls_ext.layers.rep_conv import BranchNames, RepConv
from ppcls_ext.models.mobileone import MobileOneBlock
from ppcls_ext.reparam.algebra import Branch, fold_branches, fold_norm, identity_kernel, pad_kernel
from tests.helpers import float64, randomise_norms, relative

NAMES = BranchNames("conv", "scale", "identity", "fused")


def random_layer(size, stride, groups, count, in_channels=4, out_channels=4) -> RepConv:
    paddle.seed(0)
    with float64():
        layer = RepConv(in_channels, out_channels, size, stride, groups, NAMES, count)
    randomise_norms(layer, 0)
    layer.eval()
    return layer


def random_map(channels=4):
    paddle.seed(1)
    return paddle.randn([2, channels, 7, 6], dtype="float64")


def run(kernel, bias, x, stride, groups):
    return nn.functional.conv2d(x, kernel, bias, stride, kernel.shape[-1] // 2, groups=groups)


@pytest.mark.parametrize("size", [1, 3, 5])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("count", [None, 1, 2, 4])
@pytest.mark.parametrize("out_channels", [4, 8])
def test_one_convolution_equals_the_sum_of_branches(size, stride, groups, count, out_channels):
    layer, x = random_layer(size, stride, groups, count, out_channels=out_channels), random_map()
    expected = layer.sum_of_branches(x)
    assert ("identity" in layer._sub_layers) == (stride == 1 and out_channels == 4)
    assert ("scale" in layer._sub_layers) == (size > 1)
    kernel, bias = fold_branches(layer.branches(), groups, size)
    assert relative(run(kernel, bias, x, stride, groups), expected) < 1e-10
    layer.re_parameterize()
    assert relative(layer(x), expected) < 1e-10


@pytest.mark.parametrize("dropped", range(4))
def test_every_branch_counts(dropped):
    # conv, conv, scale, identity
    layer, x = random_layer(3, 1, 2, 2), random_map()
    branches = layer.branches()
    assert [branch.kernel is None for branch in branches] == [False, False, False, True]
    kernel, bias = fold_branches(branches[:dropped] + branches[dropped + 1 :], 2, 3)
    assert relative(run(kernel, bias, x, 1, 2), layer.sum_of_branches(x)) > 1e-2


@pytest.mark.parametrize("part", ["weight", "bias", "_mean", "_variance"])
def test_every_number_of_a_normalisation_counts(part):
    layer = random_layer(3, 1, 1, 1)
    before = [value.numpy() for value in layer.equivalent_kernel()]
    tensor = getattr(layer.identity, part)
    tensor.set_value(tensor + 0.1)
    after = [value.numpy() for value in layer.equivalent_kernel()]
    assert max(relative(new, old) for new, old in zip(after, before)) > 1e-3


def test_squeeze_excite_stays_outside_and_counts():
    paddle.seed(0)
    with float64():
        block = MobileOneBlock(16, 16, 3, groups=16, conv_branches=2, use_se=True)
    randomise_norms(block, 0)
    block.eval()
    x = random_map(16)
    expected = nn.functional.relu(block.se(block.sum_of_branches(x)))
    assert relative(block(x), expected) < 1e-10
    block.re_parameterize()
    assert relative(block(x), expected) < 1e-10
    block.se = None
    assert relative(block(x), expected) > 1e-2


@pytest.mark.parametrize("groups", [1, 2, 6])
@pytest.mark.parametrize("size", [1, 3, 5])
def test_the_identity_kernel_returns_its_input(groups, size):
    x = random_map(6)
    assert bool((run(identity_kernel(6, groups, size), None, x, 1, groups) == x).all())


def test_folding_is_done_in_float64_and_is_differentiable():
    paddle.seed(0)
    conv, norm = nn.Conv2D(3, 4, 3, bias_attr=False), nn.BatchNorm2D(4)
    kernel, bias = fold_norm(conv.weight, norm)
    assert kernel.dtype == bias.dtype == paddle.float64
    (kernel.sum() + bias.sum()).backward()
    assert conv.weight.grad is not None
    assert norm.weight.grad is not None


def test_epsilon_is_that_of_the_normalisation():
    norm = nn.BatchNorm2D(2, epsilon=3.0)
    kernel, _ = fold_branches([Branch(None, norm)], 1, 1)
    assert relative(kernel, 0.5 * identity_kernel(2, 1, 1)) < 1e-12


@pytest.mark.parametrize(("kernel_size", "size"), [(3, 1), (2, 3), (3, 4)])
def test_kernels_that_have_no_centre_in_each_other_are_refused(kernel_size, size):
    with pytest.raises(PpclsExtError, match=f"cannot centre a {kernel_size} px kernel in {size} px"):
        pad_kernel(paddle.zeros([1, 1, kernel_size, kernel_size]), size)
