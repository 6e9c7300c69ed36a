"""ppcls_ext.export.int8: each family runs in integers and names the same classes."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import ppcls_ext
from ppcls_ext import cpu
from ppcls_ext.config.settings import RunSettings
from ppcls_ext.data.image_input import network_input
from ppcls_ext.data.image_rule import Preprocessing
from ppcls_ext.errors import PpclsExtError
from ppcls_ext.export import int8
from ppcls_ext.export.calibration import Histogram, channel_means, measure_limits, scale_and_zero
from ppcls_ext.export.equalization import equalize
from ppcls_ext.export.graph import Graph
from ppcls_ext.export.pipeline import export_onnx
from ppcls_ext.predict.classifier import Classifier
from ppcls_ext.predict.metadata import Metadata
from ppcls_ext.predict.onnx_file import open_session
from ppcls_ext.run import Run
from tests.export.conftest import make_pictures

FLOAT = onnx.TensorProto.FLOAT
REAL_IMAGES = 128  # half of them calibrate
# without int8 instructions onnxruntime adds pairs of products in 16 bits, which saturate
LOGITS, DIVERGENCE, SAME = (0.15, 0.04, 0.9) if cpu.multiplies_bytes() else (0.25, 0.15, 0.8)


def outputs(network: Graph, pictures: np.ndarray, values: list[str]) -> list[np.ndarray]:
    return network.piece({network.input: FLOAT}, values).run(None, {network.input: pictures})


def logits_name(network: Graph) -> str:
    return network.weighted[-1].output[0]


@pytest.fixture(scope="module")
def quantized(fp32):
    return int8.quantize(fp32, make_pictures(64), allow=True, quiet=True)


def test_a_writer_can_read_every_scale_off_the_graph(fp32, quantized):
    """`Graph.quantizations` tells what each integer stands for: 8 bits of weights and values, 32 of biases."""
    graph, floats = Graph(quantized[0]), Graph(fp32)
    floats.unshare_constants()
    assert floats.quantizations == {}
    found = graph.quantizations
    assert set(found) == {node.output[0] for node in graph.nodes if node.op_type == "DequantizeLinear"}
    for node in graph.weighted:
        assert found[node.input[0]].axis is None
        assert graph.constants.get(found[node.input[0]].integers) is None
        weights, biases = found[node.input[1]], found[node.input[2]]
        integers = graph.constants[weights.integers]
        assert integers.dtype == np.int8
        assert weights.scale.shape == weights.zero_point.shape == (integers.shape[weights.axis],)
        assert not weights.zero_point.any()
        assert graph.constants[biases.integers].dtype == np.int32
        np.testing.assert_array_equal(biases.scale, weights.scale * found[node.input[0]].scale)
    assert graph.shapes[graph.input] == ["batch", 3, 32, 32]
    assert {len(graph.shapes[node.output[0]]) for node in graph.weighted} == {4, 2}


def test_every_operator_with_weights_runs_in_integers(fp32, quantized):
    model, report = quantized
    onnx.checker.check_model(model, full_check=True)
    counts = Counter(node.op_type for node in fp32.graph.node)
    assert report.operators["QLinearConv"] == counts["Conv"]
    assert report.operators["QGemm"] == 1
    assert report.operators["Gelu"] == counts["Gelu"]
    assert report.operators["QLinearAdd"] == counts["Add"]
    assert report.operators["QLinearConcat"] == counts["Concat"]
    assert report.operators["QLinearMul"] == report.operators["QLinearSigmoid"] == counts["Sigmoid"]
    assert not {"Conv", "Gemm", "MatMul", "Erf"} & set(report.operators)


def test_the_logits_stay(fp32, quantized):
    model, report = quantized
    network, other = Graph(fp32), make_pictures(32, seed=1)
    (expected,) = outputs(network, other, [logits_name(network)])
    (got,) = outputs(Graph(model), other, [logits_name(network)])
    # random deep networks magnify errors, trained ones stay far below
    assert np.square(got - expected).mean() < LOGITS * expected.var()
    assert report.agreement > 0.7
    assert report.calibrated == report.checked == 32


def test_metadata_say_what_was_done(quantized):
    model, report = quantized
    properties = {entry.key: entry.value for entry in model.metadata_props}
    said = json.loads(properties["quantization"])
    assert said == {"type": "int8", "agreement": round(report.agreement, 4), "pictures": 32, "checked": 32}
    assert properties["architecture"] == "RepVGG_A0"


@pytest.mark.parametrize("fp32", ["FasterNet GELU"], indirect=True)
def test_equal_seeds_equal_files(fp32, quantized):
    again, _ = int8.quantize(fp32, make_pictures(64), allow=True, quiet=True)
    assert again.SerializeToString(deterministic=True) == quantized[0].SerializeToString(deterministic=True)


def test_equalizing_changes_ranges_and_no_answer(fp32):
    network, pictures = Graph(fp32), make_pictures(16)
    network.unshare_constants()
    name = logits_name(network)
    (before,) = outputs(network, pictures, [name])
    inputs = list(dict.fromkeys(node.input[0] for node in network.weighted))
    limits = measure_limits(network, pictures, inputs, int)
    factors = equalize(network, {value: limits[value].reach() for value in inputs})
    (after,) = outputs(network, pictures, [name])
    np.testing.assert_allclose(after, before, atol=2e-5 * np.abs(before).max())
    moved = [value for value in inputs if (factors[value] != 1).any()]
    assert len(moved) > len(inputs) / 3
    for value in moved:
        old, new = (outputs(net, pictures, [value])[0] for net in (Graph(fp32), network))
        np.testing.assert_allclose(
            new * factors[value].reshape(1, -1, *[1] * (new.ndim - 2)), old, atol=2e-5 * np.abs(old).max()
        )


@pytest.mark.parametrize("fp32", ["MobileOne"], indirect=True)
def test_channels_that_seldom_fire_take_no_range_from_the_others(fp32):
    """Half of the stem's channels are awake on one picture in 32, and then large."""
    seldom = Graph(fp32)
    seldom.unshare_constants()
    stem, depthwise = seldom.weighted[:2]
    (before,) = outputs(seldom, make_pictures(256, seed=3), [stem.output[0]])
    weight, bias = seldom.constants[stem.input[1]].copy(), seldom.bias(stem).copy()
    bias[::2] -= np.quantile(before.max(axis=(2, 3)), 31 / 32, axis=0)[::2]
    weight[::2] *= 30
    bias[::2] *= 30
    seldom.constants[stem.input[1]] = weight
    seldom.set_bias(stem, bias)
    reading = seldom.constants[depthwise.input[1]].copy()
    reading[::2] /= 30
    seldom.constants[depthwise.input[1]] = reading
    model, _ = int8.quantize(seldom.to_model(), make_pictures(128), allow=True, quiet=True)
    other, name = make_pictures(32, seed=1), logits_name(seldom)
    (expected,), (got,) = (outputs(net, other, [name]) for net in (seldom, Graph(model)))
    assert np.square(got - expected).mean() < 0.06 * expected.var()


def test_biases_are_corrected_in_sequence(fp32, quantized):
    """On the calibration pictures the mean of the last layer's outputs is fp32's, but for the rounding of biases."""
    calibrating = make_pictures(64)[np.sort(np.random.default_rng(0).permutation(64)[:32])]
    network = Graph(fp32)
    (expected,) = outputs(network, calibrating, [logits_name(network)])
    (got,) = outputs(Graph(quantized[0]), calibrating, [logits_name(network)])
    error = np.abs(channel_means(got) - channel_means(expected))
    assert (error < 0.05 * expected.std(axis=0)).all()


@pytest.mark.parametrize("fp32", ["MobileOne"], indirect=True)
def test_too_few_images_and_unsuitable_graphs_are_refused(fp32, quantized):
    with pytest.raises(PpclsExtError, match="got 31 calibration images: expected 32 to 500"):
        int8.quantize(fp32, make_pictures(31), quiet=True)
    with pytest.raises(PpclsExtError, match="start from the fp32 file"):
        int8.quantize(quantized[0], make_pictures(32), quiet=True)
    old = onnx.ModelProto()
    old.CopyFrom(fp32)
    old.opset_import[0].version = 12
    with pytest.raises(PpclsExtError, match="needs opset 13 or later, got 12"):
        int8.quantize(old, make_pictures(32), quiet=True)


@pytest.mark.parametrize("fp32", ["MobileOne"], indirect=True)
def test_other_classes_are_refused_with_the_measured_figure(fp32):
    """A classifier whose two classes are nearly equal: eight bits cannot tell them apart."""
    vague = onnx.ModelProto()
    vague.CopyFrom(fp32)
    (gemm,) = (node for node in vague.graph.node if node.op_type == "Gemm")
    for constant in vague.graph.initializer:
        if constant.name in gemm.input[1:]:
            values = numpy_helper.to_array(constant)
            values = values[..., :1] + 1e-4 * values
            constant.CopyFrom(numpy_helper.from_array(values.astype(np.float32), constant.name))
    with pytest.raises(
        PpclsExtError, match=r"the same class as fp32 on \d+\.\d% of 32 other images, expected 93%.*--allow"
    ):
        int8.quantize(vague, make_pictures(64), quiet=True)
    _, report = int8.quantize(vague, make_pictures(64), allow=True, quiet=True)
    assert report.agreement < int8.AGREEMENT


@pytest.mark.parametrize("fp32", ["RepVGG"], indirect=True)
def test_a_convolution_that_runs_in_floats_is_refused(fp32, monkeypatch):
    """One whose inputs get no eight bits; `allow` is about classes alone."""
    right = int8.quantized_values
    monkeypatch.setattr(int8, "quantized_values", lambda network: right(network)[:1] + right(network)[2:])
    with pytest.raises(
        PpclsExtError, match=r"onnxruntime runs \w*Conv of the int8 form in floats; nothing was written"
    ):
        int8.quantize(fp32, make_pictures(64), allow=True, quiet=True)


@pytest.mark.parametrize("fp32", ["RepVGG"], indirect=True)
def test_it_is_checked_on_other_images_than_it_was_calibrated_on(fp32, monkeypatch):
    given = {}
    for module, name, position in ((int8, "correct_biases", 1), (int8, "scores_of", 1)):
        right = getattr(module, name)

        def watched(*arguments, right=right, name=name, position=position):
            given[name] = {picture.tobytes() for picture in arguments[position]}
            return right(*arguments)

        monkeypatch.setattr(module, name, watched)
    int8.quantize(fp32, make_pictures(64), allow=True, quiet=True)
    assert len(given["correct_biases"]) == len(given["scores_of"]) == 32
    assert not given["correct_biases"] & given["scores_of"]


@pytest.mark.parametrize("fp32", ["RepVGG"], indirect=True)
def test_a_fixed_batch_stays(fp32):
    batch = 3
    fixed = onnx.ModelProto()
    fixed.CopyFrom(fp32)
    del fixed.graph.value_info[:]
    for value in (*fixed.graph.input, *fixed.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = batch
    model, _ = int8.quantize(fixed, make_pictures(35), allow=True, quiet=True)
    assert [value.shape[0] for value in open_session(model).get_inputs()] == [batch]


@pytest.mark.parametrize("fp32", ["MobileOne"], indirect=True)
def test_dead_channels(fp32):
    """Weights that are all zero, with a bias, and channels that no picture ever wakes."""
    dead = onnx.ModelProto()
    dead.CopyFrom(fp32)
    stem = next(node for node in dead.graph.node if node.op_type == "Conv")
    for constant in dead.graph.initializer:
        if constant.name in stem.input[1:]:
            values = numpy_helper.to_array(constant).copy()
            values[:2] = 0.0 if values.ndim > 1 else [3.0, -3.0]
            constant.CopyFrom(numpy_helper.from_array(values, constant.name))
    model, report = int8.quantize(dead, make_pictures(64), allow=True, quiet=True)
    network = Graph(dead)
    (expected,) = outputs(network, make_pictures(16), [logits_name(network)])
    (got,) = outputs(Graph(model), make_pictures(16), [logits_name(network)])
    assert np.square(got - expected).mean() < 0.3 * expected.var()
    assert report.agreement > 0.7


def error(values: np.ndarray, low: float, high: float) -> float:
    scale, zero = scale_and_zero(low, high)
    levels = np.clip(np.rint(values / scale) + zero, 0, 255)
    return float(np.square((levels - zero) * scale - values).mean())


@pytest.mark.parametrize("signed", [False, True])
def test_an_outlier_is_cut_off(signed):
    rng = np.random.default_rng(0)
    values = rng.exponential(1, 100_000).astype(np.float32)
    if signed:
        values *= rng.choice([-1, 1], len(values)).astype(np.float32)
    values[0] = 50
    histogram = Histogram(values.min(), values.max())
    histogram.add(values)
    low, high = histogram.range()
    assert high < 48
    tried = [error(values, low, part * values.max()) for part in np.linspace(0.1, 1, 50)]
    assert error(values, low, high) < 1.02 * min(tried)
    assert (low < -5) if signed else low == 0


@pytest.mark.parametrize(("low", "high"), [(0.0, 0.0), (-1.0, -0.5), (0.5, 2.0), (-3.0, 1.0)])
def test_zero_is_always_exact(low, high):
    histogram = Histogram(low, high)
    histogram.add(np.linspace(low, high, 1000, dtype=np.float32))
    low, high = histogram.range()
    assert low <= 0 <= high
    scale, zero = scale_and_zero(low, high)
    assert scale > 0
    assert 0 <= zero <= 255


@pytest.mark.slow
def test_accuracy_is_kept_on_real_images(shared, tmp_path):
    """Apple's MobileOne_S0 on ImageNet: plain quantization costs it ten points."""
    rule = Preprocessing()
    folder = shared / "imagenet_samples"
    model = ppcls_ext.build("MobileOne_S0", fused=True)
    ppcls_ext.load_weights(model, shared / "weights" / "mobileone_s0.pth.tar")
    metadata = Metadata("MobileOne_S0", rule).to_properties()
    export_onnx(model, tmp_path / "fp32.onnx", opset=20, metadata=metadata)
    fp32 = onnx.load(tmp_path / "fp32.onnx")
    pictures = Run(RunSettings({})).calibration_images(folder / "calibration_list.txt", REAL_IMAGES, rule)
    quantized, report = int8.quantize(fp32, pictures, allow=True, quiet=True)
    onnx.save(quantized, tmp_path / "int8.onnx")
    assert report.size < 0.30
    assert report.operators["QLinearConv"] == 43
    assert report.operators["QGemm"] == 1

    lines = (folder / "val_list.txt").read_text().split("\n")
    rows = [line.split() for line in lines if line.strip()]
    images = np.stack([network_input(folder / name, rule) for name, _ in rows])
    theirs, ours = (Classifier(tmp_path / f"{name}.onnx").probabilities(images) for name in ("fp32", "int8"))
    # 64 + 20 images: one is more than a point, so the divergence is the sharper measure; plain quantization has 0.3
    assert np.mean(np.sum(theirs * np.log((theirs + 1e-9) / (ours + 1e-9)), axis=1)) < DIVERGENCE
    same = report.agreement * report.checked + (theirs.argmax(axis=1) == ours.argmax(axis=1)).sum()
    assert same / (report.checked + len(rows)) > SAME
    said = {entry.key: entry.value for entry in quantized.metadata_props}["quantization"]
    assert json.loads(said)["pictures"] == REAL_IMAGES // 2
