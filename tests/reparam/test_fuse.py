"""Fusing whole models: the copy computes the same and holds no branch; the original is left as it was."""

from __future__ import annotations

import gc
import weakref

import paddle
import pytest
from paddle import nn

from ppcls_ext.layers.rep_conv import RepConv
from ppcls_ext.models.mobileone import NAMES, MobileOne, MobileOneBlock, Variant
from ppcls_ext.reparam.fuse import reparameterizable_layers, reparameterize
from tests.helpers import branch_by_branch, float64, randomise_norms, relative

NARROW = Variant((0.25, 0.125, 0.0625, 0.0625), conv_branches=2, use_se=True)


def narrow_net(fused=False) -> MobileOne:
    paddle.seed(0)
    with float64():
        model = MobileOne(NARROW, class_num=5, fused=fused)
    randomise_norms(model, 0)
    return model


@pytest.fixture
def model():
    model = narrow_net()
    model.eval()
    return model


@pytest.fixture
def x():
    paddle.seed(1)
    return paddle.randn([2, 3, 48, 32], dtype="float64")


def test_a_whole_model_with_squeeze_excite(model, x):
    fused = reparameterize(model)
    with branch_by_branch():
        assert relative(fused(x), model(x)) < 1e-10
    assert any(layer.se is not None for layer in fused.sublayers() if isinstance(layer, MobileOneBlock))


@pytest.mark.parametrize("dropped", ["se", "rbr_skip", "rbr_scale"])
def test_nothing_can_be_left_out(model, x, dropped):
    with branch_by_branch():
        expected = model(x)
    block = next(
        layer
        for layer in reversed(list(reparameterizable_layers(model)))
        if layer._sub_layers.get(dropped) is not None and layer.se is not None
    )
    if dropped == "se":
        block.se = None
    else:
        delattr(block, dropped)
    assert relative(reparameterize(model)(x), expected) > 1e-6


def test_the_input_model_is_untouched(model, x):
    model.train()
    before = {name: value.numpy() for name, value in model.state_dict().items()}
    layers = [type(layer) for layer in model.sublayers()]
    reparameterize(model)
    after = model.state_dict()
    assert before.keys() == after.keys()
    assert all((before[name] == after[name].numpy()).all() for name in before)
    assert [type(layer) for layer in model.sublayers()] == layers
    assert all(layer.training for layer in model.sublayers(include_self=True))


def test_the_copy_is_in_eval_mode(model):
    model.train()
    assert not any(layer.training for layer in reparameterize(model).sublayers(include_self=True))


def test_a_root_that_fuses_is_fused():
    layer = RepConv(4, 4, 3, 1, 1, NAMES)
    fused = reparameterize(layer)
    assert fused.is_repped
    assert not layer.is_repped
    assert set(fused.state_dict()) == {"reparam_conv.weight", "reparam_conv.bias"}


def test_twice_is_once(model, x):
    fused = reparameterize(model)
    before = {name: value.numpy() for name, value in fused.state_dict().items()}
    for layer in reparameterizable_layers(fused):
        kernel = layer.fused_conv
        layer.re_parameterize()
        layer.rep()
        assert layer.fused_conv is kernel
    after = reparameterize(fused).state_dict()
    assert before.keys() == after.keys()
    assert all((before[name] == after[name].numpy()).all() for name in before)


def test_no_branch_is_left(model):
    fused = reparameterize(model)
    assert not [layer for layer in fused.sublayers() if isinstance(layer, nn.BatchNorm2D)]
    assert not [name for name in fused.state_dict() if "rbr" in name or "_mean" in name]
    fresh = narrow_net(fused=True).state_dict()
    assert {name: value.shape for name, value in fused.state_dict().items()} == {
        name: value.shape for name, value in fresh.items()
    }


def test_no_branch_is_left_in_memory():
    layer = RepConv(4, 4, 3, 1, 4, NAMES, conv_branches=2)
    layer.train()
    layer(paddle.randn([2, 4, 5, 5])).sum().backward()
    parts = [weakref.ref(part) for part in layer.sublayers()]
    tensors = [weakref.ref(tensor) for tensor in layer.parameters()]
    layer.re_parameterize()
    gc.collect()
    assert not [part for part in (*parts, *tensors) if part() is not None]


def test_types_and_modes_are_kept():
    layer = RepConv(4, 4, 3, 1, 1, NAMES).to(dtype="float64")
    layer.train()
    layer.re_parameterize()
    assert layer.fused_conv.weight.dtype == layer.fused_conv.bias.dtype == paddle.float64
    assert layer.fused_conv.training
