"""Every registered name: shapes, gradients, fused = unfused, outputs of stages, and the arguments of the factories."""

from __future__ import annotations

import copy

import numpy as np
import paddle
import pytest
from paddle import nn

from ppcls_ext import build, list_models, reparameterize
from ppcls_ext.errors import PpclsExtError
from ppcls_ext.layers.fasternet_block import DropPath
from tests.helpers import branch_by_branch, randomise_norms, relative

#: Trainable parameters in millions at 1000 classes: (unfused, fused), as the official code counts them.
LARGE = {"RepVGG_B1", "RepVGG_B1g2", "RepVGG_B1g4", "RepVGG_B2", "RepVGG_B2g2", "RepVGG_B2g4", "RepVGG_B3"}
LARGE |= {"RepVGG_B3g2", "RepVGG_B3g4", "RepVGG_D2se", "RepVGG_A2", "MobileOne_S4", "FasterNet_M", "FasterNet_L"}
EVERY = [pytest.param(name, marks=pytest.mark.slow) if name in LARGE else name for name in list_models()]
SMALL = ["MobileOne_S0", "RepVGG_A0", "FasterNet_T0"]

#: Parameters of the fused nets for 1000 classes in millions. MobileOne: arXiv 2206.04040, table 8; RepVGG: arXiv
#: 2101.03697, table 4; FasterNet (whose table counts the unfused net): arXiv 2303.03667, table 3. D2se is in no table.
PUBLISHED = {
    "MobileOne_S0": 2.1,
    "MobileOne_S1": 4.8,
    "MobileOne_S2": 7.8,
    "MobileOne_S3": 10.1,
    "MobileOne_S4": 14.8,
    "RepVGG_A0": 8.30,
    "RepVGG_A1": 12.78,
    "RepVGG_A2": 25.49,
    "RepVGG_B0": 14.33,
    "RepVGG_B1": 51.82,
    "RepVGG_B1g2": 41.36,
    "RepVGG_B1g4": 36.12,
    "RepVGG_B2": 80.31,
    "RepVGG_B2g2": 63.95,
    "RepVGG_B2g4": 55.77,
    "RepVGG_B3": 110.96,
    "RepVGG_B3g2": 87.41,
    "RepVGG_B3g4": 75.62,
    "FasterNet_T0": 3.9,
    "FasterNet_T1": 7.6,
    "FasterNet_T2": 15.0,
    "FasterNet_S": 31.1,
    "FasterNet_M": 53.5,
    "FasterNet_L": 93.5,
}


def test_twenty_five_models():
    assert len(list_models()) == 25


@pytest.mark.parametrize("name", EVERY)
def test_every_model(name):
    paddle.seed(0)
    model = build(name, class_num=7)
    randomise_norms(model, seed=1)

    # every parameter receives a gradient; the map need not be square
    model.train()
    for layer in model.sublayers():
        if isinstance(layer, DropPath):
            layer.rate = 0.0  # it would leave blocks out
    logits = model(paddle.randn([2, 3, 32, 64]))
    assert logits.shape == [2, 7]
    logits.square().sum().backward()
    for key, tensor in model.named_parameters():
        if tensor.trainable:
            assert tensor.grad is not None, key
            assert np.isfinite(tensor.grad.numpy()).all(), key
            # constant branches may have a zero gradient but for rounding; a missing connection has an exact zero
            assert np.abs(tensor.grad.numpy()).max() > 0, key
    model.clear_gradients()

    # fused = unfused, batch 1, and the copy is independent
    randomise_norms(model, seed=2)
    model.eval()
    x = paddle.randn([1, 3, 32, 64])
    with paddle.no_grad():
        with branch_by_branch():
            unfused = model(x)
        before = model(x)
        fused_model = reparameterize(model)
        assert relative(fused_model(x), unfused) < 1e-5
        assert relative(model(x), before) == 0
    assert not any(isinstance(layer, nn.BatchNorm2D) for layer in fused_model.sublayers())

    # the deploy form built directly has the same state dict
    direct = build(name, class_num=7, fused=True)
    assert {k: v.shape for k, v in direct.state_dict().items()} == {
        k: v.shape for k, v in fused_model.state_dict().items()
    }
    if name in PUBLISHED:
        counted = model if name.startswith("FasterNet") else fused_model
        parameters = sum(tensor.size for tensor in counted.parameters() if tensor.trainable)
        classifier = sum(tensor.size for tensor in model._sub_layers[model.classifier].parameters())
        inputs = model._sub_layers[model.classifier].weight.shape[0]
        millions = (parameters - classifier + (inputs + 1) * 1000) / 1e6
        assert millions == pytest.approx(PUBLISHED[name], abs=0.1)


@pytest.mark.parametrize("name", SMALL)
def test_stage_maps(name):
    paddle.seed(0)
    model = build(name, class_num=3, return_stages=True)
    randomise_norms(model, seed=3)
    model.eval()
    x = paddle.randn([2, 3, 64, 96])
    outputs = model(x)
    maps = [outputs[key] for key in model.stages_pattern]
    assert [tuple(m.shape[2:]) for m in maps] == [(16, 24), (8, 12), (4, 6), (2, 3)]
    assert outputs["logits"].shape == [2, 3]
    fused = reparameterize(model)(x)
    assert set(fused) == set(outputs)
    for key, value in outputs.items():
        assert relative(fused[key], value) < 1e-5
    # the copy's hooks feed the copy: the original still answers for itself
    again = model(x)
    assert all(relative(again[key], outputs[key]) == 0 for key in outputs)


@pytest.mark.parametrize("name", SMALL)
def test_some_stages(name):
    pattern = build(name).stages_pattern
    x = paddle.randn([1, 3, 32, 32])
    for wanted, keys in ((2, [pattern[2]]), ([0, 3], [pattern[0], pattern[3]])):
        model = build(name, return_stages=wanted)
        model.eval()
        assert set(model(x)) == {"logits", *keys}
    model = build(name, return_patterns=[pattern[1]])
    model.eval()
    assert set(model(x)) == {"logits", pattern[1]}


@pytest.mark.parametrize("name", SMALL)
def test_stop_and_freeze(name):
    model = build(name, class_num=5)
    pattern = model.stages_pattern
    stopped = build(name, class_num=5, stop_after=pattern[3])
    stopped.eval()
    assert stopped(paddle.randn([1, 3, 64, 64])).ndim == 4 or stopped(paddle.randn([1, 3, 64, 64])).shape[1] > 5

    frozen = build(name, class_num=5, freeze_befor=pattern[1])
    assert set(frozen.state_dict()) == set(model.state_dict())
    frozen.train()
    frozen(paddle.randn([2, 3, 64, 64])).sum().backward()
    grads = {key: tensor.grad is not None for key, tensor in frozen.named_parameters() if tensor.trainable}
    behind = pattern[2].replace("[", ".").replace("]", "")
    before = pattern[0].replace("[", ".").replace("]", "")
    assert all(grads[key] for key in grads if key.startswith(behind))
    assert not any(grads[key] for key in grads if key.startswith(before))


@pytest.mark.parametrize("name", SMALL)
def test_deep_copies_are_independent(name):
    model = build(name, class_num=2)
    duplicate = copy.deepcopy(model)
    for tensor in duplicate.parameters():
        tensor.set_value(tensor * 0)
    assert any(float(tensor.abs().sum()) > 0 for tensor in model.parameters())


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"return_stages": 4}, "return_stages is 4"),
        ({"return_stages": []}, "return_stages is"),
        ({"return_stages": [0, 9]}, "return_stages is"),
        ({"return_patterns": "stage9"}, "no layer of"),
        ({"return_stages": True, "return_patterns": "stage1"}, "one of them"),
        ({"stop_after": "nowhere"}, "stop_after is 'nowhere'"),
        ({"freeze_befor": "nowhere"}, "freeze_befor is 'nowhere'"),
        ({"widht": 2}, "unknown arguments"),
        ({"class_num": -1}, "class_num"),
        ({"features_only": True, "return_stages": True}, "features_only gives the maps"),
        ({"features_only": True, "stop_after": "stage1"}, "features_only gives the maps"),
        ({"class_num": "ten"}, "class_num"),
    ],
)
@pytest.mark.parametrize("name", SMALL)
def test_bad_arguments(name, kwargs, message):
    with pytest.raises(PpclsExtError, match=message.replace("[", r"\[")):
        build(name, **kwargs)


def test_an_unknown_name_lists_all():
    with pytest.raises(PpclsExtError, match="'MobileOneS0': expected one of MobileOne_S0, ") as error:
        build("MobileOneS0")
    assert all(name in str(error.value) for name in list_models())
