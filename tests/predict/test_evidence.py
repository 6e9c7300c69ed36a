"""Class activation maps from a file: exact where the head is linear, the true derivative where it is not."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from ppcls_ext.errors import PpclsExtError
from ppcls_ext.predict.evidence import EvidenceReader
from ppcls_ext.report.activation_map import activation_map

CHANNELS, HIDDEN, CLASSES, PIXELS = 6, 9, 4, 8
IMAGE = np.random.default_rng(1).normal(size=(3, PIXELS, PIXELS)).astype(np.float32)


def make_file(path, curved: bool, batch="batch", pooling="GlobalAveragePool", operator="Relu") -> dict[str, np.ndarray]:
    """conv → ReLU → pooling (→ 1×1 conv → activation) → linear → softmax; returns the weights."""
    random = np.random.default_rng(0)
    width = HIDDEN if curved else CHANNELS
    weights = {
        "k": random.normal(size=(CHANNELS, 3, 3, 3)),
        "h": random.normal(size=(HIDDEN, CHANNELS, 1, 1)),
        "w": random.normal(size=(width, CLASSES)),
        "b": random.normal(size=CLASSES),
    }
    nodes = [
        helper.make_node("Conv", ["image", "k"], ["c"], pads=[1] * 4, strides=[2, 2]),
        helper.make_node("Relu", ["c"], ["features"]),
        helper.make_node(pooling, ["features"], ["pooled"]),
        *(
            [helper.make_node("Conv", ["pooled", "h"], ["z"]), helper.make_node(operator, ["z"], ["a"])]
            if curved
            else []
        ),
        helper.make_node("Flatten", ["a" if curved else "pooled"], ["f"]),
        helper.make_node("Gemm", ["f", "w", "b"], ["y"]),
        helper.make_node("Softmax", ["y"], ["probabilities"], axis=-1),
    ]
    initializers = [numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [batch, 3, PIXELS, PIXELS])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, [batch, CLASSES])],
        initializers[:1] + initializers[1 if curved else 2 :],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return weights


@pytest.mark.parametrize("batch", ["batch", 1, 3])
def test_a_linear_head_is_explained_wholly(batch, tmp_path):
    weights = make_file(tmp_path / "net.onnx", curved=False, batch=batch)
    for index in range(CLASSES):
        evidence = EvidenceReader(tmp_path / "net.onnx").read(IMAGE, index)
        assert evidence.is_exact
        np.testing.assert_allclose(evidence.derivative, weights["w"][:, index], atol=1e-5)
        found = activation_map(evidence.features, evidence.derivative)
        assert found.shape == (PIXELS // 2, PIXELS // 2)
        logit = evidence.features.mean(axis=(1, 2)) @ weights["w"][:, index]
        assert found.mean() == pytest.approx(logit, abs=1e-4)


def test_a_curved_head_gives_its_derivative(tmp_path):
    weights = make_file(tmp_path / "net.onnx", curved=True, operator="Sigmoid")
    evidence = EvidenceReader(tmp_path / "net.onnx").read(IMAGE, 2)
    assert not evidence.is_exact
    hidden = weights["h"][:, :, 0, 0]
    sigmoid = 1 / (1 + np.exp(-hidden @ evidence.features.mean(axis=(1, 2))))
    expected = (weights["w"][:, 2] * sigmoid * (1 - sigmoid)) @ hidden
    np.testing.assert_allclose(evidence.derivative, expected, rtol=1e-3, atol=1e-3)


def test_files_that_cannot_be_explained(tmp_path):
    make_file(tmp_path / "other.onnx", curved=False, pooling="GlobalMaxPool")
    (tmp_path / "bad.onnx").write_bytes(b"nonsense")
    for name, words in (("other.onnx", "has no GlobalAveragePool"), ("bad.onnx", "expected an ONNX file")):
        with pytest.raises(PpclsExtError, match=words):
            EvidenceReader(tmp_path / name)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "exact"), [("MobileOne_S0", True), ("RepVGG_A0", True), ("FasterNet_T0", False)])
def test_the_gradient_in_paddle_is_the_same(name, exact, tmp_path):
    import paddle

    import ppcls_ext
    from ppcls_ext.deploy.export import export_onnx
    from ppcls_ext.pictures.rule import Preprocessing
    from ppcls_ext.predict.metadata import Metadata
    from tests.helpers import randomise_norms

    paddle.seed(0)
    model = ppcls_ext.build(name, class_num=5)
    randomise_norms(model, seed=0)
    model.eval()
    rule = Preprocessing(resize_short=64, crop=(64, 64))
    path = tmp_path / "net.onnx"
    export_onnx(model, path, image_shape=(3, 64, 64), metadata=Metadata(name, rule).to_properties())
    image = np.random.default_rng(0).normal(size=(3, 64, 64)).astype("float32")
    evidence = EvidenceReader(path).read(image, 3)
    assert evidence.is_exact is exact

    features = model.forward_features(paddle.to_tensor(image[None])).detach()
    np.testing.assert_allclose(
        evidence.features, features.numpy()[0], rtol=1e-3, atol=1e-4 * float(features.abs().max())
    )
    features.stop_gradient = False
    gradient = paddle.grad(model.forward_head(features)[0, 3], features)[0]
    derivative = gradient.sum(axis=[0, 2, 3]).numpy()  # each place has its share of the mean's
    assert np.abs(evidence.derivative - derivative).max() < 2e-2 * np.abs(derivative).max()
