"""Class activation maps from a file: exact where the head is linear, the true derivative where it is not."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from ppcls_ext.errors import PpclsExtError
from ppcls_ext.predict.evidence import Evidence, read_evidence, split_file
from ppcls_ext.report.image_figures import activation_map

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
        evidence = read_evidence(split_file(tmp_path / "net.onnx"), IMAGE, index)
        assert evidence.is_exact
        np.testing.assert_allclose(evidence.derivative, weights["w"][:, index], atol=1e-5)
        found = activation_map(evidence.features, evidence.derivative)
        assert found.shape == (PIXELS // 2, PIXELS // 2)
        logit = evidence.features.mean(axis=(1, 2)) @ weights["w"][:, index]
        assert found.mean() == pytest.approx(logit, abs=1e-4)


def test_a_curved_head_gives_its_derivative(tmp_path):
    weights = make_file(tmp_path / "net.onnx", curved=True, operator="Sigmoid")
    evidence = read_evidence(split_file(tmp_path / "net.onnx"), IMAGE, 2)
    assert not evidence.is_exact
    hidden = weights["h"][:, :, 0, 0]
    sigmoid = 1 / (1 + np.exp(-hidden @ evidence.features.mean(axis=(1, 2))))
    expected = (weights["w"][:, 2] * sigmoid * (1 - sigmoid)) @ hidden
    np.testing.assert_allclose(evidence.derivative, expected, rtol=1e-3, atol=1e-3)


def test_the_most_probable_class_is_explained_unless_another_is_asked_for(tmp_path):
    make_file(tmp_path / "net.onnx", curved=False)
    net = split_file(tmp_path / "net.onnx")
    found = read_evidence(net, IMAGE)
    assert found.class_index == found.logits.argmax()
    for index in (CLASSES, -1):
        with pytest.raises(PpclsExtError, match=f"no class {index}: the network has the classes 0 to 3"):
            read_evidence(net, IMAGE, index)
    with pytest.raises(PpclsExtError, match="NaN or infinity"):
        read_evidence(net, np.full_like(IMAGE, np.nan))


def test_files_that_cannot_be_explained(tmp_path):
    make_file(tmp_path / "other.onnx", curved=False, pooling="GlobalMaxPool")
    (tmp_path / "bad.onnx").write_bytes(b"nonsense")
    for name, words in (("other.onnx", "has no GlobalAveragePool"), ("bad.onnx", "expected an ONNX file")):
        with pytest.raises(PpclsExtError, match=words):
            split_file(tmp_path / name)


@pytest.fixture
def trained(request):
    """A model of the name in `request` with random statistics, as a training may leave it."""
    import paddle

    import ppcls_ext
    from tests.helpers import randomise_norms

    paddle.seed(0)
    model = ppcls_ext.build(request.param, class_num=5)
    randomise_norms(model, seed=0)
    return model


def read(halves) -> Evidence:
    return read_evidence(halves, np.random.default_rng(0).normal(size=(3, 64, 64)).astype("float32"), 3)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("trained", "exact"),
    [("MobileOne_S0", True), ("RepVGG_A0", True), ("FasterNet_T0", False)],
    indirect=["trained"],
)
def test_the_model_its_file_and_paddles_gradient_say_the_same(trained, exact, tmp_path):
    import paddle

    import ppcls_ext
    from ppcls_ext.export.halves import split_model

    path = tmp_path / "net.onnx"
    ppcls_ext.export_onnx(trained, path, size=64)
    file, model = read(split_file(path)), read(split_model(trained))
    assert file.is_exact is model.is_exact is exact
    largest = np.abs(file.features).max()
    np.testing.assert_allclose(model.features, file.features, rtol=1e-3, atol=1e-4 * largest)
    maps = [activation_map(one.features, one.derivative) for one in (file, model)]
    np.testing.assert_allclose(maps[1], maps[0], atol=1e-3 * np.abs(maps[0]).max())
    np.testing.assert_allclose(model.logits, file.logits, atol=1e-4 * np.abs(file.logits).max())

    features = paddle.to_tensor(model.features[None])
    features.stop_gradient = False
    gradient = paddle.grad(trained.forward_head(features)[0, 3], features)[0]
    derivative = gradient.sum(axis=[0, 2, 3]).numpy()  # each place has its share of the mean's
    assert np.abs(file.derivative - derivative).max() < 2e-2 * np.abs(derivative).max()


@pytest.mark.parametrize("options", [{"class_num": 0}, {"features_only": True}])
def test_a_model_without_a_classifier(options):
    import ppcls_ext
    from ppcls_ext.export.halves import split_model

    with pytest.raises(PpclsExtError, match="has no classifier"):
        split_model(ppcls_ext.build("FasterNet_T0", **options))
