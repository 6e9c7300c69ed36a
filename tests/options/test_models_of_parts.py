"""PaddleClas's models of several parts with our networks inside: metric learning with retrieval, and distillation."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from ppcls_ext.reparam.reparameterizable import Reparameterizable
from tests.options.table import MODELS

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("model", MODELS)
def test_retrieval(run, config, tmp_path, model):
    """RecModel trains; gallery and query are searched; mAP and recall come out."""
    config["Global"].update(eval_mode="retrieval", retrieval_feature_from="features")
    config["Arch"] = {
        "name": "RecModel",
        "infer_output_key": "features",
        "infer_add_softmax": False,
        "Backbone": {"name": model, "class_num": 7},
        "BackboneStopLayer": {"name": "flatten"},
        "Neck": {"name": "FC", "embedding_size": {"MobileOne_S0": 1024}.get(model, 1280), "class_num": 16},
        "Head": {"name": "ArcMargin", "embedding_size": 16, "class_num": 2, "margin": 0.15, "scale": 30},
    }
    config["DataLoader"]["Train"]["sampler"] = {"name": "PKSampler", "batch_size": 12, "sample_per_id": 12}
    config["DataLoader"]["Eval"] = dict.fromkeys(("Query", "Gallery"), config["DataLoader"]["Eval"])
    config["Metric"] = {"Eval": [{"Recallk": {"topk": [1, 5]}}, {"mAP": {}}]}
    run(config)
    weights = str(tmp_path / "output" / "RecModel" / "best_model")
    config["Global"]["pretrained_model"] = weights
    run(config, "eval")
    exported = run(config, "export")
    _require_fused_and_equal(exported, tmp_path / "inference", [1, 16])


@pytest.mark.parametrize("teacher", MODELS)
def test_distillation(run, config, tmp_path, teacher):
    """Deep mutual learning of two of ours; the student is exported, fused, on its own."""
    student = MODELS[MODELS.index(teacher) - 1]
    config["Arch"] = {
        "name": "DistillationModel",
        "class_num": 2,
        "pretrained_list": None,
        "freeze_params_list": [False, False],
        "infer_model_name": "Student",
        "models": [
            {"Teacher": {"name": teacher, "class_num": 2, "pretrained": False}},
            {"Student": {"name": student, "class_num": 2, "pretrained": False}},
        ],
    }
    pairs = [["Student", "Teacher"]]
    config["Loss"]["Train"] = [
        {"DistillationGTCELoss": {"weight": 1.0, "model_names": ["Student", "Teacher"]}},
        {"DistillationDMLLoss": {"weight": 1.0, "model_name_pairs": pairs}},
    ]
    accuracy = {"DistillationTopkAcc": {"model_key": "Student", "topk": [1, 2]}}
    config["Metric"] = {"Train": [accuracy], "Eval": [{"TopkAcc": {"topk": [1, 2]}}]}
    run(config)
    config["Global"]["pretrained_model"] = str(tmp_path / "output" / "DistillationModel" / "best_model")
    exported = run(config, "export")
    _require_fused_and_equal(exported, tmp_path / "inference", [1, 2])


def _require_fused_and_equal(engine, folder, shape: list[int]) -> None:
    """The exported program has no batch normalisation left, but what is not ours, and gives that shape."""
    program = paddle.jit.load(str(folder / "inference"))
    out = program(paddle.ones([1, 3, 32, 32]))
    assert out.shape == shape
    assert np.isfinite(out.numpy()).all()
    operators = (folder / "inference.json").read_text()
    assert "conv2d" in operators
    assert "batch_norm" not in operators
    assert any(isinstance(layer, Reparameterizable) for layer in engine.model.sublayers())
