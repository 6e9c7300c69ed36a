"""From one ONNX file to LiteRT, Core ML and ncnn: the same answers, and every trap on the way."""

from __future__ import annotations

import dataclasses
import importlib.util
import io
import json
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from ppcls_ext.commands import bench, evaluate, predict, verify
from ppcls_ext.commands import export as command
from ppcls_ext.commands.outcome import run
from ppcls_ext.data.image_input import network_input
from ppcls_ext.data.image_rule import Preprocessing
from ppcls_ext.errors import PpclsExtError
from ppcls_ext.export import file_proof, formats
from ppcls_ext.export.float16 import store_as_float16
from ppcls_ext.export.formats import export_file
from ppcls_ext.export.int8 import quantize
from ppcls_ext.export.net import read_net, with_unsigned_weights, without_rounding
from ppcls_ext.predict.classifier import Classifier
from ppcls_ext.predict.metadata import Metadata
from ppcls_ext.predict.onnx_file import open_session
from tests.export.conftest import make_pictures

PACKAGES = {"tflite": "ai_edge_litert", "coreml": "coremltools", "ncnn": "ncnn"}
SUFFIXES = {"tflite": ".tflite", "coreml": ".mlpackage", "ncnn": ".ncnn.param"}


def needs(*names):
    """Skips a test where a package is not installed; coremltools, ai-edge-litert and ncnn have extras of their own."""
    for name in names:
        if importlib.util.find_spec(PACKAGES[name]) is None:
            pytest.skip(f'needs pip install "ppcls-ext[{name}]"')


def save(model, path: Path) -> Path:
    path.write_bytes(model.SerializeToString())
    return path


@pytest.fixture(scope="session")
def int8(fp32):
    """The int8 form of each small net."""
    return quantize(fp32, make_pictures(64), allow=True, quiet=True)[0]


@pytest.fixture(scope="session")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for index in range(6):
        coarse = Image.fromarray(rng.integers(0, 256, (4, 5, 3), dtype=np.uint8))
        coarse.resize((60 + 9 * index, 50)).save(folder / f"{index}.png")
    return folder


def by_onnx(model, images):
    """Answers by the definition of the file: with weights that saturate nowhere."""
    session = open_session(with_unsigned_weights(model))
    return np.concatenate([session.run(None, {"image": image[None]})[0] for image in images])


def answers(path, images):
    classifier = Classifier(path)
    return np.concatenate([classifier.scores(image[None]) for image in images])


# one net of each family


@pytest.mark.parametrize("to", ["tflite", "ncnn"])
def test_the_same_answers_in_floats(to, fp32, pictures, tmp_path):
    needs(to)
    path = save(fp32, tmp_path / "net.onnx")
    report = export_file(path, to, samples=[str(pictures)])
    assert report.path == tmp_path / f"net{SUFFIXES[to]}"
    assert report.proof.agreement.images >= 6 + 4
    assert report.proof.difference <= 3e-5  # ncnn adds in another order
    inputs = [network_input(file, Classifier(path).metadata.preprocessing) for file in sorted(pictures.iterdir())]
    np.testing.assert_allclose(answers(report.path, inputs), by_onnx(fp32, inputs), atol=3e-5)


def test_the_same_answers_in_eight_bits(int8, tmp_path):
    """With our scales; so close that no level is another, but where GELU and sums pass through eight bits."""
    needs("tflite")
    report = export_file(save(int8, tmp_path / "net_int8.onnx"), "tflite")
    assert report.path.name == "net_int8.tflite"
    is_loose = any(node.op_type in ("Gelu", "Add") for node in int8.graph.node)
    assert report.proof.allowed == (file_proof.ROUNDED if is_loose else file_proof.SAME)
    assert report.proof.difference <= report.proof.allowed


@pytest.mark.parametrize("to", ["tflite", "ncnn"])
def test_float16_weights(to, exported, tmp_path):
    needs(to)
    path = shutil.copy(exported[1], tmp_path / "net.onnx")
    report = export_file(path, to, precision="float16")
    assert report.path.name == f"net_fp16{SUFFIXES[to]}"
    assert report.proof.difference <= 1e-5, "both compute with the same halves"
    assert report.reduced.difference <= 0.02
    assert Classifier(report.path).metadata.quantization == "fp16"
    # the same of the file that is fp16 itself
    half = save(store_as_float16(onnx.load(path)), tmp_path / "half_fp16.onnx")
    assert export_file(half, to).path.name == f"half_fp16{SUFFIXES[to]}"


@pytest.fixture(scope="session")
def package(exported, tmp_path_factory):
    """A Core ML package in halves, and its report."""
    needs("coreml")
    folder = tmp_path_factory.mktemp("package")
    return export_file(shutil.copy(exported[1], folder / "net.onnx"), "coreml")


def test_core_ml_is_computed_from_the_package(package):
    assert package.path.name == "net.mlpackage"
    assert package.precision == "float16"
    assert package.proof.difference <= 0.02
    assert "not run on Apple hardware" in str(package)
    network = Classifier(f"{package.path}/").network  # as shells complete a folder's name
    assert network.takes_pixels
    assert network.computes_in_halves


def test_core_ml_takes_means_as_the_neural_engine_does(package):
    """Apple's compiler: "Large avg separate pool cannot be supported" (apple/ml-mobileone, issue 20)."""
    from ppcls_ext.predict.coreml_model import _Package

    kinds = [operation.type for operation in _Package(package.path)._block.operations]
    assert "reduce_mean" in kinds
    assert "avg_pool" not in kinds


def test_core_ml_in_floats_and_with_our_int8_weights(exported, tmp_path):
    needs("coreml")
    model = onnx.load(exported[1])
    path = save(model, tmp_path / "net.onnx")
    report = export_file(path, "coreml", precision="float32")
    assert report.path.name == "net_fp32.mlpackage"
    assert report.proof.difference <= 1e-5
    net = quantized_tiny(model)
    report = export_file(save(net, tmp_path / "net_int8.onnx"), "coreml")
    assert report.precision == "int8"
    weights = Classifier(report.path).network.weights
    assert sum(weight.dtype == np.float16 for weight in weights) == len(weights)
    file_proof.require_weights(read_net(net), weights)  # our scales: coremltools' own compression loses more
    (weight_bin,) = report.path.rglob("weight.bin")
    operations = [operation for operation in read_net(net).operations if operation.weight]
    assert weight_bin.stat().st_size < 1.5 * sum(op.weight.stored.size for op in operations) + 300 * len(operations)


def quantized_tiny(model):
    upgraded = onnx.ModelProto()
    upgraded.CopyFrom(model)
    rng = np.random.default_rng(0)
    images = rng.standard_normal((32, 3, 4, 4)).astype(np.float32).repeat(4, axis=2).repeat(4, axis=3)
    if any(node.op_type == "Erf" for node in model.graph.node):
        upgraded = with_gelu(model)
    return quantize(upgraded, images, allow=True, quiet=True)[0]


def with_gelu(model):
    from ppcls_ext.export.gelu import fuse_gelu
    from ppcls_ext.export.graph import Graph

    graph = Graph(model)
    fuse_gelu(graph)
    for index, node in enumerate(graph.nodes):
        node.name = node.name or f"gelu_{index}"
    made = graph.to_model()
    made.opset_import[0].version = 20
    made.ir_version = 9
    return made


def test_a_flipped_sign_of_one_weight_is_caught(package, tmp_path):
    copy = tmp_path / "net.mlpackage"
    shutil.copytree(package.path, copy)
    net = read_net(onnx.load(package.path.parent / "net.onnx"))
    file_proof.require_weights(net, Classifier(copy).network.weights)
    (weight_bin,) = copy.rglob("weight.bin")
    content = bytearray(weight_bin.read_bytes())
    weights = net.operations[2].weight or net.operations[0].weight
    place = content.find(weights.floats.astype(np.float16).tobytes())
    assert place > 0
    content[place + 1] ^= 0x80
    weight_bin.write_bytes(content)
    with pytest.raises(PpclsExtError, match="other weights than the file"):
        file_proof.require_weights(net, Classifier(copy).network.weights)


# traps of LiteRT


def operators(path):
    schema = pytest.importorskip("ai_edge_litert.schema_py_generated")
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(Path(path).read_bytes(), 0))
    names = {value: name for name, value in vars(schema.BuiltinOperator).items() if isinstance(value, int)}
    codes = [names[code.builtinCode] for code in model.operatorCodes]
    return schema, model, [(codes[entry.opcodeIndex], entry) for entry in model.subgraphs[0].operators]


def test_stride_2_is_padded_on_both_sides(exported, tmp_path):
    """LiteRT's SAME would put the zeros behind the map."""
    needs("tflite")
    schema, model, found = operators(export_file(exported[1], "tflite", tmp_path / "net.tflite").path)
    strided = [entry for name, entry in found if name == "CONV_2D" and entry.builtinOptions.strideH == 2]
    pads = [entry.outputs[0] for name, entry in found if name == "PAD"]
    assert strided
    for entry in strided:
        assert entry.builtinOptions.padding == schema.Padding.VALID
        assert entry.inputs[0] in pads
    margins = [entry.inputs[1] for name, entry in found if name == "PAD"]
    buffer = model.buffers[model.subgraphs[0].tensors[margins[0]].buffer].data
    assert np.frombuffer(bytes(buffer), np.int32).reshape(4, 2).tolist() == [[0, 0], [1, 1], [1, 1], [0, 0]]


def test_values_of_unequal_scales_are_joined_by_way_of_floats(exported, tmp_path):
    """An int8 CONCATENATION of unequal scales does not load, and QUANTIZE from int8 to int8 rounds otherwise."""
    needs("tflite")
    path = save(quantized_tiny(onnx.load(exported[1])), tmp_path / "net_int8.onnx")
    _, model, found = operators(export_file(path, "tflite").path)
    tensors = model.subgraphs[0].tensors
    joins = [entry for name, entry in found if name == "CONCATENATION"]
    assert joins
    for entry in joins:
        assert len({tensors[index].quantization.scale[0] for index in [*entry.inputs, *entry.outputs]}) == 1
    for name, entry in found:
        if name == "QUANTIZE":
            assert tensors[entry.inputs[0]].type == 0, "a float"


def test_levels_from_0_to_255_become_levels_from_minus_128_to_127(exported):
    model = quantized_tiny(onnx.load(exported[1]))
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    for value, levels in read_net(model).levels.items():
        zero = constants[f"{value}.zero_point"]
        assert zero.dtype == np.uint8
        assert levels.zero_point == int(zero) - 128


def test_the_proof_runs_xnnpack(exported, tmp_path):
    """The reference kernels round eight bits otherwise."""
    needs("tflite")
    path = export_file(exported[1], "tflite", tmp_path / "net.tflite").path
    kinds = {entry["op_name"] for entry in Classifier(path).network.interpreter._get_ops_details()}
    assert "DELEGATE" in kinds


@pytest.mark.parametrize("order", ["RGB", "BGR"])
@pytest.mark.parametrize("sizes", [{"resize_short": 20}, {"resize_short": None, "resize": (24, 18), "crop": (16, 16)}])
def test_pixels_are_cropped_and_normalised_inside(order, sizes, exported, tmp_path):
    needs("tflite")
    rule = Preprocessing(**{"crop": (16, 16), "channel_order": order, "mean": (0.1, 0.4, 0.7), **sizes})
    model = onnx.load(exported[1])
    properties = Metadata("TinyNet", rule).to_properties()
    helper.set_model_props(model, properties)
    path = save(model, tmp_path / "net.onnx")
    image = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    expected = Classifier(path).scores(network_input(image, rule)[None])
    report = export_file(path, "tflite")
    assert report.proof.difference <= 1e-5
    np.testing.assert_allclose(Classifier(report.path).scores(network_input(image, rule)[None]), expected, atol=1e-5)
    # as an app does it: resized without a crop, RGB
    from ppcls_ext.data.image_input import resize_and_crop

    size = rule.resize or (rule.resize_short, rule.resize_short)
    pixels = resize_and_crop(image, Preprocessing(resize_short=None, resize=size, crop=None))
    network = Classifier(report.path).network
    network.interpreter.set_tensor(network.interpreter.get_input_details()[0]["index"], pixels[None])
    network.interpreter.invoke()
    got = network.interpreter.get_tensor(network.interpreter.get_output_details()[0]["index"])
    np.testing.assert_allclose(got, expected, atol=1e-5)
    if order == "BGR" and rule.resize is None:  # Core ML's images are RGB, too; the proof puts pixels into the package
        needs("coreml")
        assert export_file(path, "coreml", precision="float32").proof.difference <= 1e-5


def test_other_numbers_than_pixels_are_refused(exported, tmp_path):
    needs("tflite")
    noise = np.random.default_rng(0).standard_normal((1, 3, 16, 16)).astype(np.float32)
    path = export_file(exported[1], "tflite", tmp_path / "pixels.tflite").path
    with pytest.raises(PpclsExtError, match="takes pixels"):
        Classifier(path).scores(noise)
    path = export_file(exported[1], "tflite", tmp_path / "floats.tflite", tensor_input=True).path
    expected = Classifier(exported[1]).scores(noise)
    np.testing.assert_allclose(Classifier(path).scores(noise), expected, atol=1e-5)


def test_what_litert_s_task_library_reads(exported, tmp_path):
    """Walked by hand through the tables of metadata_schema.fbs."""
    needs("tflite")
    import flatbuffers

    path = export_file(exported[1], "tflite", tmp_path / "net.tflite").path
    content = path.read_bytes()
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        assert archive.namelist() == ["labels.txt"]
        assert archive.read("labels.txt").decode().splitlines() == list(Classifier(path).metadata.class_names)
    _, model, _ = operators(path)
    entries = {entry.name.decode(): bytes(model.buffers[entry.buffer].data) for entry in model.metadata}
    data = entries["TFLITE_METADATA"]
    assert data[4:8] == b"M001"
    uoffset = flatbuffers.number_types.UOffsetTFlags

    def root():
        return flatbuffers.table.Table(data, flatbuffers.encode.Get(uoffset.packer_type, data, 0))

    def field(table, number):
        return table.Offset(4 + 2 * number)

    def child(table, number):
        return flatbuffers.table.Table(data, table.Indirect(table.Pos + field(table, number)))

    def first(table, number):
        return flatbuffers.table.Table(data, table.Indirect(table.Vector(field(table, number))))

    def text(table, number):
        return table.String(table.Pos + field(table, number)).decode()

    assert text(root(), 0) == "TinyNet"
    subgraph = first(root(), 3)
    given, answer = first(subgraph, 2), first(subgraph, 3)
    content_of = child(given, 3)
    number = flatbuffers.number_types.Uint8Flags
    assert content_of.Get(number, content_of.Pos + field(content_of, 0)) == 2, "ImageProperties"
    labels = first(answer, 6)
    assert (text(labels, 0), labels.Get(number, labels.Pos + field(labels, 2))) == ("labels.txt", 2)
    assert text(answer, 0) == "probabilities"


# traps of Core ML


def test_equal_labels_become_unique(exported, tmp_path):
    """ImageNet has two cranes; Core ML takes them as one key of its dictionary without a word."""
    needs("coreml")
    from ppcls_ext.export.coreml import unique_labels

    model = onnx.load(exported[1])
    names = ("crane", "rose", "crane", "", "crane (0)")
    helper.set_model_props(
        model, Metadata("TinyNet", Classifier(exported[1]).metadata.preprocessing, names).to_properties()
    )
    net = read_net(model)
    labels = unique_labels(net)
    assert len(set(labels)) == len(labels) == 5
    report = export_file(save(model, tmp_path / "net.onnx"), "coreml", precision="float32")
    network = Classifier(report.path).network
    assert network.labels == labels
    assert network.metadata.class_names == names, "predict names them as they are"


def test_core_ml_crops_and_normalises_in_its_program(exported, tmp_path):
    """An image has one scale for its three channels there, and its short side is not that of the network.

    The first convolution stays as it is: its zeros at the border are normalised ones.
    """
    needs("coreml")
    from ppcls_ext.predict.coreml_model import _Package

    model = onnx.load(exported[1])
    rule = Preprocessing(resize_short=20, crop=(16, 16), mean=(0.1, 0.4, 0.7), std=(0.2, 0.3, 0.5))
    helper.set_model_props(model, Metadata("TinyNet", rule).to_properties())
    report = export_file(save(model, tmp_path / "net.onnx"), "coreml", precision="float32")
    package = _Package(report.path)
    nodes = list(package.graph().graph.node)
    assert package.size == [20, 20]
    assert [node.op_type for node in nodes[:4]] == ["Slice", "Mul", "Sub", "Conv"]
    held = package._initializers
    assert held[nodes[0].input[1]].tolist() == [0, 0, 2, 2]
    std, mean = np.array(rule.std), np.array(rule.mean)
    np.testing.assert_allclose(held[nodes[1].input[1]].ravel(), 1 / 255 / std, rtol=1e-6)
    np.testing.assert_allclose(held[nodes[2].input[1]].ravel(), mean / std, rtol=1e-6)
    first = next(operation for operation in read_net(model).operations if operation.kind == "conv")
    assert first.padding
    np.testing.assert_array_equal(held[nodes[3].input[1]], first.weight.stored)


def test_core_ml_is_computed_as_it_stands(package):
    """onnxruntime's optimizer computes parts in other types than the program says."""
    import onnxruntime

    level = Classifier(package.path).network.session.get_session_options().graph_optimization_level
    assert level == onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL


def test_core_ml_s_halves_of_tiny_numbers_are_zero(exported, tmp_path):
    """coremltools makes 6e-8 of each: a dead channel of an int8 file would live."""
    needs("coreml")
    model = quantized_tiny(onnx.load(exported[1]))
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    name = next(name for name in constants if name.endswith("weight.scale"))
    scales = numpy_helper.to_array(constants[name]).copy()
    scales[0] = 1e-12
    constants[name].CopyFrom(numpy_helper.from_array(scales, name))
    report = export_file(save(model, tmp_path / "net_int8.onnx"), "coreml")
    operations = [operation for operation in read_net(model).operations if operation.weight]
    (place,) = (index for index, operation in enumerate(operations) if operation.weight.scale[0] == np.float32(1e-12))
    assert not Classifier(report.path).network.weights[2 * place][0].any()


# traps of ncnn


def test_ncnn_s_layers(fp32, tmp_path):
    needs("ncnn")
    from ppcls_ext.export.ncnn import write_ncnn

    files = write_ncnn(read_net(fp32))
    magic, counts, *lines = files[".ncnn.param"].decode().splitlines()
    assert magic == "7767517"
    layers = [line.split() for line in lines]
    assert int(counts.split()[0]) == len(layers)
    readers = {}
    made = []
    for _, name, inputs, outputs, *rest in layers:
        for blob in rest[: int(inputs)]:
            readers.setdefault(blob, []).append(name)
        made += rest[int(inputs) : int(inputs) + int(outputs)]
    assert all(len(names) == 1 for names in readers.values()), "a blob has one reader"
    assert len(set(made)) == len(made) == int(counts.split()[1])
    if any(node.op_type == "Sigmoid" for node in fp32.graph.node):  # squeeze-and-excitation
        after = [layers[index + 1][0] for index, layer in enumerate(layers) if layer[0] == "Pooling"]
        assert set(after) == {"InnerProduct"}


def test_halves_of_ncnn_fill_four_bytes(exported):
    from ppcls_ext.export.ncnn import _Writer
    from ppcls_ext.export.net import Constant

    writer = _Writer(read_net(onnx.load(exported[1])))
    writer._store(Constant(np.ones((1, 3), np.float16)))
    assert len(writer.weights) == 4 + 8
    assert writer.weights[:4] == (0x01306B47).to_bytes(4, "little")


def test_ncnn_s_application_normalises(exported, tmp_path):
    """The layers begin with the network's own, and the description says what belongs before them."""
    needs("ncnn")
    path = export_file(exported[1], "ncnn", tmp_path / "net.ncnn.param").path
    layers = [line.split()[0] for line in path.read_text().splitlines()[2:4]]
    assert layers == ["Input", "Convolution"]
    described = json.loads((tmp_path / "net.ncnn.json").read_text(encoding="utf-8"))
    rule = Metadata.from_properties(described).preprocessing
    assert rule == Classifier(exported[1]).metadata.preprocessing


def test_ncnn_takes_an_image_that_is_not_contiguous(exported, tmp_path):
    """Its Mat does not hold the array that it is made of."""
    needs("ncnn")
    path = export_file(exported[1], "ncnn", tmp_path / "net.ncnn.param").path
    images = np.random.default_rng(0).standard_normal((8, 16, 16, 3)).astype(np.float32).transpose(0, 3, 1, 2)
    network = Classifier(path).network
    got = np.concatenate([network.run(image[None]) for image in images])
    np.testing.assert_allclose(got, Classifier(exported[1]).scores(np.ascontiguousarray(images)), atol=1e-5)


def test_ncnn_s_files_are_of_one_export(exported, tmp_path):
    needs("ncnn")
    path = export_file(exported[1], "ncnn", tmp_path / "net.ncnn.param").path
    assert sorted(file.name for file in tmp_path.iterdir()) == ["net.ncnn.bin", "net.ncnn.json", "net.ncnn.param"]
    weights = tmp_path / "net.ncnn.bin"
    content = weights.read_bytes()
    weights.write_bytes(content[:-4])
    with pytest.raises(PpclsExtError, match=r"net\.ncnn\.bin was changed or is of another export"):
        Classifier(path)
    weights.unlink()
    with pytest.raises(PpclsExtError, match=r"net\.ncnn\.bin: there is no such file"):
        Classifier(path)


# what is refused, and what is left


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda nodes: nodes[0].attribute.append(helper.make_attribute("dilations", [2, 2])), "Conv .*dilations"),
        (lambda nodes: setattr(nodes[1], "op_type", "Elu"), "Elu .*expected one of Add, Concat"),
        (lambda nodes: nodes.append(helper.make_node("Tanh", ["probabilities"], ["x"], name="last")), "Tanh last"),
    ],
)
def test_what_fused_nets_are_not_made_of_is_refused_by_name(change, said, exported, tmp_path):
    model = onnx.load(exported[1])
    for entry in list(model.graph.node[0].attribute):
        if entry.name == "dilations":
            model.graph.node[0].attribute.remove(entry)
    change(model.graph.node)
    with pytest.raises(PpclsExtError, match=said):
        read_net(model)


def test_uneven_pads_are_refused(exported):
    model = onnx.load(exported[1])
    for entry in model.graph.node[0].attribute:
        if entry.name == "pads":
            entry.ints[:] = [0, 0, 1, 1]
    with pytest.raises(PpclsExtError, match="the same on all sides"):
        read_net(model)


@pytest.mark.parametrize("to", ["tflite", "ncnn", "coreml"])
def test_a_wrong_file_is_never_handed_over(to, exported, tmp_path, monkeypatch):
    """The writer's mistake is found by the proof, and the older files stay."""
    needs(to)
    right = formats._write

    def wrong(net, *rest):
        first, *others = net.operations
        broken = dataclasses.replace(first, weight=first.weight._replace(stored=-first.weight.stored))
        return right(dataclasses.replace(net, operations=(broken, *others)), *rest)

    target = tmp_path / f"net{SUFFIXES[to]}"
    export_file(exported[1], to, target)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    monkeypatch.setattr(formats, "_write", wrong)
    with pytest.raises(PpclsExtError, match="nothing was written"):
        export_file(exported[1], to, target)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"to": "tensorrt"}, "the format is 'tensorrt': expected onnx, tflite, coreml, ncnn"),
        ({"to": "ncnn", "precision": "int8"}, "ncnn has no int8"),
        ({"to": "tflite", "precision": "int4"}, "expected float32, float16, int8"),
        ({"to": "tflite", "precision": "int8"}, "--calibration FOLDER"),
        ({"to": "tflite", "output": "net.onnx"}, r"ends in \.tflite"),
        ({"to": "ncnn", "output": "net.param"}, r"ends in \.ncnn\.param"),
        ({"to": "ncnn", "tensor_input": True}, "a tensor input is for tflite"),
        ({"to": "tflite", "path": "none.onnx"}, "there is no such file"),
        ({"to": "tflite", "path": "text.onnx"}, "onnx cannot read it"),
    ],
)
def test_wrong_arguments(options, said, exported, tmp_path, monkeypatch):
    if options["to"] in PACKAGES:
        needs(options["to"])
    monkeypatch.chdir(tmp_path)
    Path("text.onnx").write_text("text", encoding="utf-8")
    shutil.copy(exported[1], "net.onnx")
    before = sorted(Path().iterdir())
    given = {"path": "net.onnx", **options}
    with pytest.raises(PpclsExtError, match=said):
        export_file(given.pop("path"), given.pop("to"), given.pop("output", None), **given)
    assert sorted(Path().iterdir()) == before


def test_a_form_is_made_once(exported, tmp_path):
    needs("tflite")
    path = save(store_as_float16(onnx.load(exported[1])), tmp_path / "net_fp16.onnx")
    with pytest.raises(PpclsExtError, match="is float16 already: give the fp32 file"):
        export_file(path, "tflite", precision="int8")


def test_a_folder_of_other_files_is_no_package(exported, tmp_path):
    needs("coreml")
    target = tmp_path / "net.mlpackage"
    target.mkdir()
    (target / "mine.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(PpclsExtError, match=r"mine\.txt, which belongs to no Core ML package"):
        export_file(exported[1], "coreml", target, precision="float32")
    assert (target / "mine.txt").read_text(encoding="utf-8") == "mine"


@pytest.mark.parametrize("damage", ["cut", "text", "foreign"])
def test_damaged_files_are_one_line(damage, exported, tmp_path):
    needs("tflite")
    path = export_file(exported[1], "tflite", tmp_path / "net.tflite").path
    content = path.read_bytes()
    path.write_bytes(
        {"cut": content[:700], "text": b"no model", "foreign": content.replace(b"ppcls_ext", b"xxxxx_ext")}[damage]
    )
    with pytest.raises(PpclsExtError, match=r"net\.tflite: "):
        Classifier(path)


def test_a_damaged_package_is_one_line(package, tmp_path):
    copy = tmp_path / "net.mlpackage"
    shutil.copytree(package.path, copy)
    (copy / "Manifest.json").write_text("{}", encoding="utf-8")
    with pytest.raises(PpclsExtError, match=r"net\.mlpackage: it is damaged"):
        Classifier(copy)
    with pytest.raises(PpclsExtError, match="expected a package"):
        Classifier(tmp_path / "none.mlpackage")


def test_without_rounding_keeps_the_weights_of_eight_bits(exported):
    model = quantized_tiny(onnx.load(exported[1]))
    plain = without_rounding(model)
    assert not {node.op_type for node in plain.graph.node} & {"QuantizeLinear", "DequantizeLinear"}
    weights = {
        operation.outputs[0].removesuffix(".dequantized"): operation.weight.floats
        for operation in read_net(model).operations
        if operation.weight
    }
    for operation in read_net(plain).operations:
        if operation.weight:
            np.testing.assert_array_equal(operation.weight.floats, weights[operation.outputs[0]])


# the commands


def test_without_paddle(exported, tmp_path):
    needs("tflite")
    code = "import sys; from ppcls_ext.commands.main import main; "
    code += f"assert main(['export', {str(exported[1])!r}, '--to', 'tflite', '--output', 'net.tflite']) == 0; "
    code += "print({'paddle', 'paddle2onnx', 'onnxslim', 'torch', 'tensorflow'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "set()"
    assert done.stderr == "", "LiteRT says that it uses XNNPACK"
    assert done.stdout.splitlines()[0].startswith("net.tflite: 0.0")


def test_predict_verify_and_bench_open_them_as_they_open_onnx(exported, pictures, tmp_path, capsys):
    needs("tflite", "ncnn")
    path = str(shutil.copy(exported[1], tmp_path / "net.onnx"))
    for to in ("tflite", "ncnn"):
        assert run(lambda: command.main([path, "--to", to])) == 0  # noqa: B023
    assert "next:\n  ppcls-ext predict" in capsys.readouterr().out
    results = []
    for name in ("net.onnx", "net.tflite", "net.ncnn.param"):
        assert run(lambda: predict.main([str(tmp_path / name), str(pictures), "--json"])) == 0  # noqa: B023
        results.append(json.loads(capsys.readouterr().out))
    for other in results[1:]:
        for one, two in zip(results[0], other):
            assert one["class_ids"] == two["class_ids"]
            np.testing.assert_allclose(one["scores"], two["scores"], atol=2e-5)
    assert run(lambda: verify.main([path, str(pictures)])) == 0
    table = capsys.readouterr().out
    for name in ("tflite", "ncnn", "net.tflite", "net.ncnn.param"):
        (line,) = (line for line in table.splitlines() if line.startswith(f"{name} "))
        assert "100.0%" in line
    assert run(lambda: verify.main([str(tmp_path / "net.tflite"), str(pictures)])) == 0
    assert "on " + path in capsys.readouterr().out
    files = [path, str(tmp_path / "net.tflite"), str(tmp_path / "net.ncnn.param")]
    assert run(lambda: bench.main([*files, "--turns", "2"])) == 0
    rows = [line.split()[:3] for line in capsys.readouterr().out.splitlines()[1:]]
    assert rows == [
        ["net.onnx", "file", "onnxruntime"],
        ["net.tflite", "file", "tflite"],
        ["net.ncnn.param", "file", "ncnn"],
    ]
    assert run(lambda: bench.main([path, "--turns", "2", "--runtimes", "onnxruntime", "tflite", "ncnn"])) == 0
    assert [line.split()[2] for line in capsys.readouterr().out.splitlines()[1:]] == ["onnxruntime", "tflite", "ncnn"]


def test_verify_of_a_run_is_one_table_of_all_runtimes(tiny_run, capsys):
    needs("tflite", "ncnn", "coreml")
    for to in ("onnx", "tflite", "coreml", "ncnn"):
        assert run(lambda: command.main([str(tiny_run), "--to", to])) == 0  # noqa: B023
    capsys.readouterr()
    assert run(lambda: verify.main([str(tiny_run), "png/00.png"])) == 0
    first, _, *lines, last = capsys.readouterr().out.splitlines()
    assert re.fullmatch(rf"{tiny_run}/FasterNet_T0.onnx: 1 images, compared with onnxruntime .* \([\d.]+ ms\)", first)
    table = {line[:32].split()[0]: line[32:].split() for line in lines}
    files = [f"FasterNet_T0{suffix}" for suffix in SUFFIXES.values()]
    assert {"tflite", "ncnn", "coreml", *files} <= table.keys()
    for name in ("tflite", "ncnn", "FasterNet_T0.tflite", "FasterNet_T0.ncnn.param"):
        assert float(table[name][0]) <= 1e-4
        assert float(table[name][2]) > 0, "ms"
    for name in ("coreml", "FasterNet_T0.mlpackage"):
        assert table[name][1:] == ["100.0%", "–"]
    assert last == "coreml, FasterNet_T0.mlpackage: computed from the file, not run on Apple hardware"


def test_where_core_ml_runs_verify_asks_it(package, pictures, capsys, monkeypatch):
    """As on macOS; what Core ML would say there is said nowhere else, and so its line says why there is none."""
    from ppcls_ext.predict import coreml_model

    assert not coreml_model.runs_here() or sys.platform == "darwin"
    monkeypatch.setattr(coreml_model.sys, "platform", "darwin")
    assert run(lambda: verify.main([str(package.path), str(pictures)])) == 1
    lines = capsys.readouterr().out.splitlines()
    (line,) = (line for line in lines if line.startswith("net.mlpackage, run by Core ML"))
    assert "Core ML cannot" in line


def test_answers_of_core_ml_are_in_the_order_of_the_classes():
    from ppcls_ext.predict.coreml_model import answered

    answer = {"classLabel": "b", "classLabel_probs": {"b": 0.7, "c": 0.1, "a": 0.2}}
    np.testing.assert_array_equal(answered(answer, ["a", "b", "c"]), np.float32([0.2, 0.7, 0.1]))
    np.testing.assert_array_equal(answered({"scores": np.array([[0.5, 0.9]])}, []), np.float32([0.5, 0.9]))


def test_eval_of_each_format_on_labelled_images(exported, tmp_path, capsys):
    """One figure for one network, whatever runs it; int8 too."""
    needs("tflite", "ncnn", "coreml")
    rule = Preprocessing(resize_short=16, crop=(16, 16))
    model = onnx.load(exported[1])
    helper.set_model_props(model, Metadata("TinyNet", rule, tuple("abcde")).to_properties())
    path = save(model, tmp_path / "net.onnx")
    rng = np.random.default_rng(0)
    for index in range(20):
        folder = tmp_path / "data" / "abcde"[index % 5]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(folder / f"{index}.png")
    eight = save(quantized_tiny(model), tmp_path / "net_int8.onnx")
    files = [path, *(export_file(path, to).path for to in SUFFIXES), eight, export_file(eight, "tflite").path]
    assert run(lambda: evaluate.main([*map(str, files), "--data", str(tmp_path / "data"), "--json"])) == 0
    found = [one["metrics"]["top1"] for one in json.loads(capsys.readouterr().out)]
    assert len(found) == 6
    assert found[:4] == [found[0]] * 4
    assert abs(found[4] - found[5]) <= 0.1, "on some CPUs onnxruntime's sums saturate"


def test_verify_needs_the_onnx_file(exported, pictures, tmp_path, capsys):
    needs("tflite")
    path = export_file(exported[1], "tflite", tmp_path / "alone.tflite").path
    assert run(lambda: verify.main([str(path), str(pictures)])) == 1
    assert "alone.onnx beside it" in capsys.readouterr().err


def test_verify_tells_another_network(exported, pictures, tmp_path, capsys):
    needs("tflite")
    model = onnx.load(exported[1])
    path = save(model, tmp_path / "net.onnx")
    export_file(path, "tflite")
    for tensor in model.graph.initializer:
        array = numpy_helper.to_array(tensor)
        if tensor.data_type == TensorProto.FLOAT and array.ndim == 2:
            tensor.CopyFrom(numpy_helper.from_array(-array, tensor.name))
    save(model, path)
    assert run(lambda: verify.main([str(tmp_path / "net.tflite"), str(pictures)])) == 1
    assert "gives other answers than onnxruntime" in capsys.readouterr().err


def test_int8_of_an_fp32_file_by_its_own_calibration(exported, tmp_path):
    needs("tflite")
    folder = tmp_path / "calibration"
    folder.mkdir()
    rng = np.random.default_rng(1)
    for index in range(36):
        coarse = Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8))
        coarse.resize((24, 20)).save(folder / f"{index}.png")
    path = save(with_gelu(onnx.load(exported[1])), tmp_path / "net.onnx")
    options = {"precision": "int8", "calibration": str(folder), "calibration_images": 36, "allow": True}
    report = export_file(path, "tflite", **options)
    assert report.path.name == "net_int8.tflite"
    assert report.reduced.calibrated == 18
    to_onnx = export_file(path, "onnx", **options)
    assert to_onnx.path.name == "net_int8.onnx"
    assert Classifier(to_onnx.path).metadata.quantization == "int8"
    # the file that is int8 already gives the same bytes
    assert export_file(to_onnx.path, "tflite", tmp_path / "again.tflite").path.read_bytes() == report.path.read_bytes()


def test_from_a_run_in_one_command(tiny_run, capsys):
    needs("tflite")
    assert run(lambda: command.main([str(tiny_run), "--to", "tflite", "--samples", "png/00.png"])) == 0
    printed = capsys.readouterr().out
    assert "fused layers, from the sums of their branches" in printed
    path = tiny_run / "FasterNet_T0.tflite"
    assert f"{path}: " in printed
    assert Classifier(path).metadata.class_names == ("red", "green")
    assert run(lambda: verify.main([str(tiny_run), "png/00.png"])) == 1
    assert "export-onnx" in capsys.readouterr().err, "there is no ONNX file to compare with"


@pytest.mark.parametrize("output", ["scores", "logits"])
@pytest.mark.parametrize("to", ["tflite", "ncnn", "coreml"])
def test_other_ends(to, output, tmp_path):
    """A multi-label network's scores, and logits; Core ML's classifiers would take neither for probabilities."""
    needs(to)
    pytest.importorskip("paddle2onnx", reason="needs paddle2onnx, which has no wheel for Python 3.13")
    from ppcls_ext.export.pipeline import export_onnx
    from tests.tiny_net import METADATA, make_net

    metadata = dataclasses.replace(METADATA, task="multi-label" if output == "scores" else "single-label")
    path = tmp_path / "net.onnx"
    properties = metadata.to_properties()
    export_onnx(make_net(), path, image_shape=(3, 16, 16), metadata=properties, softmax=output == "scores")
    report = export_file(path, to, precision="float32")
    assert report.output == f"{output} (1, 5)"
    assert report.proof.difference <= 1e-5
    network = Classifier(report.path).network
    assert network.ends_in_logits == (output == "logits")
    if to == "coreml":
        assert network.labels == []
