"""Parity with the official implementations, in float64: anything above 1e-6 relative is a bug."""

from __future__ import annotations

import paddle
import pytest
from paddle import nn

from ppcls_ext import build, load_weights, reparameterize
from ppcls_ext.layers.fasternet_block import DropPath
from ppcls_ext.models.repvgg import custom_l2
from tests.helpers import float64, relative
from tests.reference import SHAPES, official_weights, reference
from tests.reference.reference_fill import fill, reference_input

HEAVY = {"MobileOne_S4", "RepVGG_B1g4", "RepVGG_D2se", "FasterNet_S"}
NAMES = [pytest.param(name, marks=pytest.mark.slow) if name in HEAVY else name for name in SHAPES]


def normalise(norm, x):
    """Batch normalisation in train mode; Paddle's own keeps ε as a float32, which a net in train mode magnifies."""
    mean = x.mean([0, 2, 3], keepdim=True)
    variance = ((x - mean) ** 2).mean([0, 2, 3], keepdim=True)
    gamma, beta = (value.reshape([1, -1, 1, 1]) for value in (norm.weight, norm.bias))
    return (x - mean) / paddle.sqrt(variance + norm._epsilon) * gamma + beta


@pytest.mark.parametrize("name", NAMES)
def test_official_numbers(name, monkeypatch):
    expected = reference(name)
    with float64():
        model = build(name)
        report = load_weights(model, official_weights(name))
        assert report.naming == "official"
        assert len(report.loaded) == len(model.state_dict())
        assert not report.fresh
        trainable = {key: tensor for key, tensor in model.named_parameters() if tensor.trainable}
        assert sum(tensor.size for tensor in trainable.values()) == expected["params_train"]

        x = paddle.to_tensor(reference_input(64), stop_gradient=False)
        model.eval()
        assert relative(model(x).detach(), expected["eval"]) < 1e-9
        fused = reparameterize(model)
        assert relative(fused(x).detach(), expected["eval"]) < 1e-9
        if not name.startswith("FasterNet"):  # the official FasterNet does not fuse
            assert sum(tensor.size for tensor in fused.parameters()) == expected["params_fused"]

        model.train()
        monkeypatch.setattr(nn.BatchNorm2D, "forward", normalise)
        for layer in model.sublayers():
            if isinstance(layer, DropPath):
                layer.rate = 0.0  # off in the references
        logits = model(x)
        assert relative(logits.detach(), expected["train"]) < 1e-6
        (logits * paddle.to_tensor(fill("cotangent", (2, 1000), float(expected["gain"])))).sum().backward()
        assert relative(x.grad, expected["train_input_grad"]) < 1e-6
        norms = dict(zip(expected["param_grad_names"], expected["param_grad_norms"]))
        assert set(norms) == set(trainable)
        floor = 1e-3 * max(norms.values())  # gradients that are zero but for rounding have no relative error
        worst = max(abs(float(t.grad.norm()) - norms[key]) / max(norms[key], floor) for key, t in trainable.items())
        assert worst < 1e-6


@pytest.mark.parametrize("name", ["RepVGG_A0", pytest.param("RepVGG_D2se", marks=pytest.mark.slow)])
def test_custom_l2(name):
    with float64():
        model = build(name)
        load_weights(model, official_weights(name))
        penalty = custom_l2(model)
        assert float(penalty) == pytest.approx(float(reference(name)["custom_l2"]), rel=1e-12)
        penalty.backward()
        block = model.stage1[0]
        assert block.rbr_dense.conv.weight.grad is not None
        assert block.rbr_dense.bn.weight.grad is None  # γ/σ takes no part
        assert float(custom_l2(reparameterize(model))) == 0


@pytest.mark.parametrize("name", ["FasterNet_T0", pytest.param("FasterNet_S", marks=pytest.mark.slow)])
def test_dense_prediction_maps(name):
    expected = reference(name)
    with float64():
        model = build(name, fork_feat=True)
        report = load_weights(model, official_weights(name))
        assert all(key.startswith("norm") for key in report.fresh)
        assert len(report.fresh) == 16
        assert all(key.startswith(("head", "avgpool_pre_head")) for key in report.unused)
        gain = float(expected["gain"])
        for index in (0, 2, 4, 6):
            norm = model._sub_layers[f"norm{index}"]
            names = {"weight": "weight", "bias": "bias", "_mean": "running_mean", "_variance": "running_var"}
            for ours, official in names.items():
                tensor = getattr(norm, ours)
                tensor.set_value(fill(f"norm{index}.{official}", tuple(tensor.shape), gain))
        model.eval()
        x = paddle.to_tensor(reference_input(64))
        for form in (model, reparameterize(model)):
            for index, features in enumerate(form(x)):
                assert relative(features, expected[f"feature{index}"]) < 1e-6  # stored in float32
