"""What the ONNX file of every model consists of: nothing is left that a fused net does not need."""

from __future__ import annotations

import shutil
from collections import Counter

import onnx
import paddle
import pytest
from paddle import nn

from ppcls_ext import build, list_models, reparameterize
from ppcls_ext.data.image_rule import rule_from_transforms
from ppcls_ext.export.formats import export_file
from ppcls_ext.export.pipeline import export_onnx
from ppcls_ext.predict.metadata import Metadata
from tests.helpers import needs_converter, randomise_norms

pytestmark = needs_converter

TRANSFORMS = [
    {"DecodeImage": {"to_rgb": True, "channel_first": False}},
    {"ResizeImage": {"resize_short": 32}},
    {"CropImage": {"size": 32}},
    {"NormalizeImage": {"scale": 1 / 255, "mean": [0.5] * 3, "std": [0.2] * 3, "order": ""}},
    {"ToCHWImage": None},
]
FAST = {"MobileOne_S0", "RepVGG_A0", "FasterNet_T0"}
#: What is allowed beside one pooling, one Flatten, one Gemm and one Softmax.
ALLOWED = {
    "MobileOne": {"Conv", "Relu"},
    "MobileOne_S4": {"Conv", "Relu", "GlobalAveragePool", "Sigmoid", "Mul"},
    "RepVGG": {"Conv", "Relu"},
    "RepVGG_D2se": {"Conv", "Relu", "GlobalAveragePool", "Sigmoid", "Mul"},
    "FasterNet": {"Conv", "Relu", "Split", "Concat", "Add", "Mul", "Div", "Erf"},  # Add: the residual
}


@pytest.fixture(
    scope="module",
    params=[name if name in FAST else pytest.param(name, marks=pytest.mark.slow) for name in list_models()],
)
def exported_model(request, tmp_path_factory):
    """A model's name, the model with random weights, and its file."""
    name = request.param
    paddle.seed(0)
    model = build(name, class_num=10)
    randomise_norms(model, seed=0)
    model.eval()
    metadata = Metadata(name, rule_from_transforms(TRANSFORMS), None).to_properties()
    folder = tmp_path_factory.mktemp(name)
    path = folder / "model.onnx"
    export_onnx(model, path, image_shape=(3, 32, 32), metadata=metadata)
    yield name, model, path
    shutil.rmtree(folder)  # all models' files together hold 11 GB


def test_nodes(exported_model):
    name, model, path = exported_model
    graph = onnx.load(path).graph
    counts = Counter(node.op_type for node in graph.node)

    layers = list(reparameterize(model).sublayers())
    assert counts["Conv"] == sum(isinstance(layer, nn.Conv2D) for layer in layers)
    assert (counts["Flatten"], counts["Gemm"], counts["Softmax"]) == (1, 1, 1)
    gates = counts["Sigmoid"]
    assert counts["GlobalAveragePool"] == 1 + gates
    family = name.split("_")[0]
    allowed = ALLOWED.get(name, ALLOWED[family]) | {"GlobalAveragePool", "Flatten", "Gemm", "Softmax"}
    assert set(counts) <= allowed
    if gates:
        assert counts["Mul"] == gates
    biases = {node.output[0] for node in graph.node if node.op_type == "Conv" and len(node.input) == 3}
    if family != "FasterNet":  # its partial and projecting convolutions have no bias to carry
        assert len(biases) == counts["Conv"]


@pytest.mark.parametrize("to", ["tflite", "ncnn"])
def test_other_formats(to, exported_model):
    """Proved, or an error; random weights magnify rounding, and so the proof's own limit counts."""
    pytest.importorskip({"tflite": "ai_edge_litert", "ncnn": "ncnn"}[to], reason=f'needs pip install "ppcls-ext[{to}]"')
    report = export_file(exported_model[2], to)
    assert report.proof.difference <= report.proof.allowed <= 1e-3
