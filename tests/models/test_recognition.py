"""PaddleClas's metric-learning model on our backbones: BackboneStopLayer, Neck and Head, one training step."""

from __future__ import annotations

import paddle
import pytest

import ppcls_ext
from ppcls_ext import reparameterize
from tests.helpers import relative

FEATURES = {"MobileOne_S0": 1024, "RepVGG_A0": 1280, "FasterNet_T0": 1280}


@pytest.mark.parametrize("name", FEATURES)
def test_recognition_model_trains(name):
    ppcls_ext.register()
    from ppcls.arch import build_model

    paddle.seed(0)
    model = build_model(
        {
            "Arch": {
                "name": "RecModel",
                "Backbone": {"name": name, "pretrained": False},
                "BackboneStopLayer": {"name": "flatten"},
                "Neck": {"name": "FC", "embedding_size": FEATURES[name], "class_num": 32},
                "Head": {"name": "ArcMargin", "embedding_size": 32, "class_num": 6, "margin": 0.15, "scale": 30},
            }
        }
    )
    optimizer = paddle.optimizer.Momentum(0.01, parameters=model.parameters())
    x, labels = paddle.randn([6, 3, 64, 64]), paddle.arange(6).reshape([6, 1])
    before = {key: value.numpy().copy() for key, value in model.named_parameters() if value.trainable}
    out = model(x, labels)
    assert out["backbone"].shape == [6, FEATURES[name]]
    assert out["features"].shape == [6, 32]
    paddle.nn.functional.cross_entropy(out["logits"], labels).backward()
    optimizer.step()
    moved = {key for key, value in model.named_parameters() if value.trainable and (value.numpy() != before[key]).any()}
    left = set(before) - moved
    assert not left

    model.eval()
    features = model(x, labels)["features"]
    assert relative(reparameterize(model)(x, labels)["features"], features) < 1e-5
