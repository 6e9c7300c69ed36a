"""ppcls_ext.export.pipeline: the file equals the model, or there is no file."""

from __future__ import annotations

import errno
import importlib
import json
import os
import resource
import subprocess
import sys
import weakref
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import paddle
import pytest
from onnx import numpy_helper
from paddle import nn
from PIL import Image

import ppcls_ext
from ppcls_ext.data.image_input import network_input
from ppcls_ext.data.image_rule import Preprocessing
from ppcls_ext.errors import PpclsExtError
from ppcls_ext.export import comparison, convert, fusion_proof, pipeline, simplify
from ppcls_ext.export.opset import DEFAULT_OPSET, OPSETS, opset_of
from ppcls_ext.export.pipeline import export_onnx, export_with_rule
from ppcls_ext.predict.metadata import Metadata
from tests.helpers import needs_converter, randomise_norms
from tests.tiny_net import CLASSES, METADATA, PIXELS, make_net

pytestmark = needs_converter
SHAPE = (3, PIXELS, PIXELS)
FINAL_OPERATORS = {
    *("Conv", "Relu", "GlobalAveragePool", "Flatten", "Gemm", "Softmax"),
    *("Sigmoid", "Mul"),  # squeeze-and-excitation
    *("Split", "Concat", "Add"),  # FasterNet, its Add being the residual
    *("Div", "Erf", "Gelu"),  # GELU, before opset 20 and from there on
}


def images(count: int) -> np.ndarray:
    return np.random.default_rng(7).standard_normal((count, *SHAPE), dtype=np.float32)


def run(path: Path, batch: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(None, {"image": batch})[0]


def logits_of(net: nn.Layer, batch: np.ndarray) -> np.ndarray:
    """The unfused network's own answer, branch by branch."""
    reference, _ = fusion_proof.branch_form(net, ppcls_ext.reparameterize(net))
    with paddle.no_grad():
        return reference(paddle.to_tensor(batch)).numpy()


def probabilities_of(net: nn.Layer, batch: np.ndarray) -> np.ndarray:
    powers = np.exp(logits_of(net, batch).astype("float64"))
    return powers / powers.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_any_batch_gives_paddles_probabilities(exported, batch):
    net, path, report = exported
    np.testing.assert_allclose(run(path, images(batch)), probabilities_of(net, images(batch)), atol=2e-6)
    assert report.inputs == [f"image (batch, 3, {PIXELS}, {PIXELS})"]
    assert report.outputs == [f"probabilities (batch, {len(CLASSES)})"]


def test_the_graph_is_clean(exported):
    _, path, report = exported
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    assert set(report.nodes) <= FINAL_OPERATORS
    assert report.nodes["Flatten"] == report.nodes["Gemm"] == report.nodes["Softmax"] == 1
    assert report.nodes["GlobalAveragePool"] == 2  # one of them squeeze-and-excitation's
    assert report.nodes["Conv"] == 8
    assert report.nodes["Add"] == 2  # GELU and residual: no bias stands by itself
    assert (model.producer_name, model.producer_version) == ("ppcls_ext", ppcls_ext.__version__)
    assert opset_of(model) == report.opset == DEFAULT_OPSET
    names = [node.name for node in model.graph.node]
    assert len(set(names)) == len(names)
    assert {"stem.reparam_conv", "depthwise.se.reduce", "linear"} <= set(names)


def test_all_parameters_keep_their_names_and_bits(exported):
    net, path, _ = exported
    state = {name: value.numpy() for name, value in ppcls_ext.reparameterize(net).state_dict().items()}
    constants = {value.name: numpy_helper.to_array(value) for value in onnx.load(path).graph.initializer}
    assert set(state) <= set(constants)  # among them the zero biases that onnxslim drops
    for name, value in state.items():
        np.testing.assert_array_equal(constants[name], value, err_msg=name)


def test_metadata_are_in_the_file(exported):
    _, path, _ = exported
    properties = {entry.key: entry.value for entry in onnx.load(path).metadata_props}
    assert Metadata.from_properties(properties) == METADATA
    assert json.loads(properties["class_names"]) == list(CLASSES)
    assert properties["opset"] == "17"
    assert properties["ppcls_ext_version"] == ppcls_ext.__version__
    assert properties["paddle_version"] == paddle.__version__
    assert properties["paddle2onnx_version"]


def test_the_report_says_what_was_measured(exported):
    _, path, report = exported
    text = str(report)
    assert report.size == path.stat().st_size / 2**20
    assert set(report.onnx_differences) == {1, 3}
    for value in (report.layer_difference, report.fused_difference, *report.onnx_differences.values()):
        assert 0 < value < 1e-5
        assert f"{value:.1e}" in text
    for said in (str(path), "opset 17", "image (batch", "8 Conv", "MiB"):
        assert said in text


def test_the_model_is_left_as_it_was(exported):
    net, _, _ = exported
    fresh = make_net()
    assert net.training
    assert all(not getattr(layer, "is_repped", False) for layer in net.sublayers())
    for (name, got), (_, expected) in zip(net.state_dict().items(), fresh.state_dict().items()):
        np.testing.assert_array_equal(got.numpy(), expected.numpy(), err_msg=name)


def test_equal_models_give_equal_files(exported, tmp_path):
    _, path, _ = exported
    make_net(1)  # Paddle's own names count the layers ever made
    export_onnx(make_net(), tmp_path / "again.onnx", image_shape=SHAPE, metadata=METADATA.to_properties())
    assert (tmp_path / "again.onnx").read_bytes() == path.read_bytes()


@pytest.mark.parametrize("opset", [pytest.param(n, marks=() if n in (11, 20) else pytest.mark.slow) for n in OPSETS])
def test_every_opset(opset, tmp_path):
    net, path = make_net(opset), tmp_path / "net.onnx"
    report = export_onnx(net, path, image_shape=SHAPE, opset=opset, metadata=METADATA.to_properties())
    assert opset_of(onnx.load(path)) == report.opset == opset
    assert set(report.nodes) <= FINAL_OPERATORS
    np.testing.assert_allclose(run(path, images(4)), probabilities_of(net, images(4)), atol=2e-6)


def test_fixed_batch_and_logits(tmp_path):
    net, path = make_net(3), tmp_path / "new folder" / "net.onnx"
    report = export_onnx(
        net, path, image_shape=SHAPE, batch=2, softmax=False, metadata=METADATA.to_properties(), samples=images(3)
    )
    assert report.inputs == [f"image (2, 3, {PIXELS}, {PIXELS})"]
    assert report.outputs == [f"logits (2, {len(CLASSES)})"]
    assert set(report.onnx_differences) == {2}
    assert "Softmax" not in report.nodes
    expected = logits_of(net, images(2))
    np.testing.assert_allclose(run(path, images(2)), expected, atol=1e-5 * np.abs(expected).max())
    with pytest.raises(Exception, match="dimension"):
        run(path, images(3))


def test_a_model_that_came_fused(tmp_path):
    net = ppcls_ext.reparameterize(make_net())
    report = export_onnx(net, tmp_path / "net.onnx", image_shape=SHAPE, metadata=METADATA.to_properties())
    assert report.layer_difference is None
    assert report.fused_difference is None
    assert "from the unfused model" not in str(report)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "nodes"),
    [
        ("MobileOne_S0", {"Conv": 43, "Relu": 43}),
        ("RepVGG_A0", {"Conv": 22, "Relu": 22}),
        ("FasterNet_T0", {"Conv": 44, "Split": 13, "Concat": 13, "Erf": 14, "Div": 14, "Mul": 28, "Add": 14 + 13}),
        ("FasterNet_T2", {"Conv": 44, "Relu": 14, "Split": 13, "Concat": 13, "Add": 13}),
    ],
)
def test_the_families(name, nodes, tmp_path):
    paddle.seed(0)
    net, path = ppcls_ext.build(name, class_num=7), tmp_path / "net.onnx"
    randomise_norms(net, 0)
    properties = Metadata(name, Preprocessing(resize_short=32, crop=(32, 32))).to_properties()
    report = export_onnx(net, path, image_shape=(3, 32, 32), metadata=properties)
    head = dict.fromkeys(("GlobalAveragePool", "Flatten", "Gemm", "Softmax"), 1)
    assert dict(report.nodes) == {**nodes, **head}


class Shared(nn.Layer):
    """A convolution that is used twice, without activation, and a normalisation that nothing folds."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2D(3, 3, 3, padding=1)
        self.norm = nn.BatchNorm2D(3)

    def forward(self, x):
        return self.conv(self.norm(nn.functional.relu(self.conv(x)))).mean(axis=[2, 3])


def test_layers_used_twice_and_norms_that_stay(tmp_path):
    paddle.seed(0)
    report = export_onnx(Shared(), tmp_path / "net.onnx", image_shape=SHAPE, metadata=unnamed())
    assert report.nodes["Conv"] == 2
    names = [node.name for node in onnx.load(tmp_path / "net.onnx").graph.node]
    assert {"conv", "conv_1"} <= set(names)


def unnamed() -> dict[str, str]:
    """For networks of any number of classes."""
    return {key: value for key, value in METADATA.to_properties().items() if key != "class_names"}


def test_it_prints_nothing_and_leaves_no_temporary_files(tmp_path, capfd, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    monkeypatch.setattr("tempfile.tempdir", None)
    Path(tmp_path, "temporary").mkdir()
    export_onnx(make_net(), tmp_path / "net.onnx", image_shape=SHAPE, metadata=METADATA.to_properties())
    assert capfd.readouterr() == ("", "")
    assert not list(Path(tmp_path, "temporary").iterdir())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["net.onnx", "temporary"]


WATCH = """
import os, sys
def watch(event, arguments):
    if event in ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork", "os.spawn"):
        with open(os.environ["WATCHED"], "a") as file:
            file.write(repr((event, arguments[:2])) + "\\n")
    elif event == "import" and arguments[0].partition(".")[0] in ("pip", "ensurepip", "polygraphy"):
        with open(os.environ["WATCHED"], "a") as file:
            file.write("import " + arguments[0] + "\\n")
    elif event in ("socket.connect", "socket.getaddrinfo"):
        with open(os.environ["WATCHED"], "a") as file:
            file.write(repr((event, arguments)) + "\\n")
sys.addaudithook(watch)
"""
EXPORT = """
import sys
sys.path.insert(0, {root!r})
import sitecustomize
assert hasattr(sitecustomize, "watch")
from tests.tiny_net import METADATA, PIXELS, make_net
from ppcls_ext.export.pipeline import export_onnx, export_with_rule
export_onnx(make_net(), {output!r}, image_shape=(3, PIXELS, PIXELS), metadata=METADATA.to_properties())
"""


def test_nothing_is_installed_and_another_process_writes_the_same_file(exported, tmp_path):
    """Watches all processes, connections and installers from inside, in the exporting process and its child."""
    _, path, _ = exported
    (tmp_path / "sitecustomize.py").write_text(WATCH)
    watched = tmp_path / "watched.txt"
    script = EXPORT.format(root=str(Path(__file__).resolve().parents[2]), output=str(tmp_path / "net.onnx"))
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "WATCHED": str(watched), "PYTHONHASHSEED": "7"}
    # pip would find no index and would not be allowed to write anywhere
    environment.update(PIP_NO_INDEX="1", PIP_TARGET="/proc", OMP_NUM_THREADS="1")
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    lines = watched.read_text().splitlines()
    assert len([line for line in lines if "paddle2onnx.export(" in line]) == 1
    assert not [line for line in lines if "pip" in line or " install" in line]
    assert not [line for line in lines if line.startswith(("import", "('socket", "('os.exec", "('os.system"))]
    assert (tmp_path / "net.onnx").read_bytes() == path.read_bytes()


def expect_failure(tmp_path: Path, match: str, net, properties, **arguments) -> None:
    """The export fails with one line that says so; an older file stays, and nothing else appears."""
    path = tmp_path / "net.onnx"
    path.write_bytes(b"older")
    with pytest.raises(PpclsExtError, match=match) as caught:
        export_onnx(net, path, **{"image_shape": SHAPE, "metadata": properties, **arguments})
    assert "\n" not in str(caught.value)
    assert path.read_bytes() == b"older"
    assert [entry.name for entry in tmp_path.iterdir()] == ["net.onnx"]


def test_a_wrong_fusion_is_refused(tmp_path, monkeypatch):
    """Forgets the identity branch; the layers' own eval mode would forget it as well."""
    module = importlib.import_module("ppcls_ext.reparam.reparameterizable")
    right = module.fold_branches

    def wrong(branches, *others):
        kept = [branch for branch in branches if branch.kernel is not None]
        return right(kept, *others)

    monkeypatch.setattr(module, "fold_branches", wrong)
    expect_failure(tmp_path, "the fused and the unfused layer depthwise differ", make_net(), METADATA.to_properties())


def test_a_slightly_wrong_fusion_is_refused(tmp_path, monkeypatch):
    module = importlib.import_module("ppcls_ext.reparam.algebra")
    right = module.fold_norm

    def wrong(kernel, norm):
        kernel, bias = right(kernel, norm)
        return kernel * 1.0005, bias

    monkeypatch.setattr(module, "fold_norm", wrong)
    expect_failure(tmp_path, "the fused and the unfused layer stem differ", make_net(), METADATA.to_properties())


def test_what_the_fused_model_forgets_between_its_layers_is_refused(tmp_path, monkeypatch):
    """Squeeze-and-excitation lost: every fused layer is right, and the whole is not."""
    right = pipeline.reparameterize

    def forgetful(model):
        fused = right(model)
        fused.depthwise.se = nn.Identity()
        return fused

    monkeypatch.setattr(pipeline, "reparameterize", forgetful)
    expect_failure(tmp_path, "the fused and the unfused model's logits differ", make_net(), METADATA.to_properties())


@pytest.fixture
def converted(exported, monkeypatch):
    """The network of the exported file, whose next export takes that file's graph, changed, for the converted one."""

    def converted(change=lambda model: None) -> nn.Layer:
        net, path, _ = exported
        model = onnx.load(path)
        change(model)
        monkeypatch.setattr(convert, "convert", lambda *_: None)
        monkeypatch.setattr(simplify, "simplify", lambda *_: model)
        return net

    return converted


def perturb(model: onnx.ModelProto) -> None:
    """Changes one weight by a thousandth."""
    constant = next(value for value in model.graph.initializer if value.name == "pointwise.reparam_conv.weight")
    values = numpy_helper.to_array(constant).copy()
    values[3, 5] += 1e-3 * np.abs(values).max()
    constant.CopyFrom(numpy_helper.from_array(values, constant.name))


def test_a_changed_weight_is_refused(converted, tmp_path):
    expect_failure(
        tmp_path, "changed the parameter pointwise.reparam_conv.weight", converted(perturb), METADATA.to_properties()
    )


def test_a_changed_weight_is_refused_by_onnxruntimes_answers_alone(converted, tmp_path, monkeypatch):
    def perturb_much(model):
        for _ in range(100):
            perturb(model)

    monkeypatch.setattr(comparison, "require_same_parameters", lambda *_: None)
    said = "onnxruntime's and Paddle's logits at batch 1 differ"
    expect_failure(tmp_path, said, converted(perturb_much), METADATA.to_properties())


def test_a_changed_operator_is_refused(converted, tmp_path):
    def change(model):
        next(node for node in model.graph.node if node.op_type == "Relu").op_type = "Sigmoid"

    expect_failure(tmp_path, "onnxruntime's and Paddle's logits", converted(change), METADATA.to_properties())


def softmax_over_the_batch(model: onnx.ModelProto) -> None:
    model.graph.node[-1].attribute[0].i = 0


def lose_the_softmax(model: onnx.ModelProto) -> None:
    model.graph.node[-1].op_type = "Identity"
    del model.graph.node[-1].attribute[:]


def lose_the_batch(model: onnx.ModelProto) -> None:
    """A Reshape to batch 1 in the place of Flatten would serve one image and fail on three."""
    flatten = next(node for node in model.graph.node if node.op_type == "Flatten")
    model.graph.initializer.append(numpy_helper.from_array(np.array([1, -1]), "one"))
    flatten.CopyFrom(onnx.helper.make_node("Reshape", [flatten.input[0], "one"], list(flatten.output), "flat"))


def lose_the_images_behind_the_first(model: onnx.ModelProto) -> None:
    """One row for the whole batch, which NumPy would stretch over all of them."""
    softmax = model.graph.node.pop()
    model.graph.initializer.append(numpy_helper.from_array(np.array([0]), "first"))
    model.graph.node.append(onnx.helper.make_node("Gather", [softmax.input[0], "first"], ["one"], axis=0))
    model.graph.node.append(onnx.helper.make_node("Softmax", ["one"], softmax.output, axis=-1))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (softmax_over_the_batch, "probabilities at batch 1 differ"),
        (lose_the_softmax, "probabilities at batch 1 differ"),
        (lose_the_batch, "cannot run the graph at batch 3"),
        (lose_the_images_behind_the_first, "gives 1 rows for a batch of 3"),
    ],
)
def test_a_wrong_end_is_refused(change, said, converted, tmp_path):
    expect_failure(tmp_path, said, converted(change), METADATA.to_properties())


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (softmax_over_the_batch, "the sums of its probabilities at batch 1 and 1 differ"),
        (lose_the_softmax, "the sums of its probabilities at batch 1 and 1 differ"),
        (lose_the_batch, "cannot run the graph at batch 3"),
        (lose_the_images_behind_the_first, "gives 1 rows for a batch of 3"),
    ],
)
def test_what_int8_or_fp16_made_of_it_is_run_too(change, said, converted, tmp_path):
    def reduce(model):
        change(model)
        return model, "reduced"

    expect_failure(tmp_path, said, converted(), METADATA.to_properties(), reduce=reduce)


def test_a_reduced_form_whose_answers_depend_on_the_batch(converted, tmp_path):
    def reduce(model):
        """To each image's logits the whole batch's are added."""
        gemm = next(node for node in model.graph.node if node.op_type == "Gemm")
        mean = onnx.helper.make_node("ReduceMean", ["own"], ["mean"], axes=[0], keepdims=1)
        add = onnx.helper.make_node("Add", ["own", "mean"], list(gemm.output))
        gemm.output[0] = "own"
        softmax = model.graph.node.pop()
        model.graph.node.extend([mean, add, softmax])
        return model, "reduced"

    said = "its answers at batch 1 and 3 differ"
    expect_failure(tmp_path, said, converted(), METADATA.to_properties(), reduce=reduce)


class Any(nn.Layer):
    """A convolution, then any function."""

    def __init__(self, function) -> None:
        super().__init__()
        self.conv = nn.Conv2D(3, 4, 3)
        self.function = function

    def forward(self, x):
        return self.function(self.conv(x))


def sampled(x):
    return nn.functional.grid_sample(x, x[:, :2].transpose([0, 2, 3, 1])).mean([2, 3])


@pytest.mark.parametrize(
    ("function", "opset", "said"),
    [
        pytest.param(lambda x: paddle.lgamma(x.mean([2, 3])), 17, "no operator like lgamma", id="unknown operator"),
        pytest.param(sampled, 11, "opset_version to 16", id="operator of a later opset"),
        pytest.param(lambda x: x.mean([2, 3]) * (2 if x.sum() > 0 else 3), 17, "static", id="control flow"),
        pytest.param(lambda x: x, 17, r"a tensor \(1, 4, 14, 14\)", id="no logits"),
        pytest.param(lambda x: {"logits": x.mean([2, 3])}, 17, "a dict", id="a dict"),
        pytest.param(lambda x: x.mean([2, 3]) / 0, 17, "not finite", id="infinite"),
    ],
)
def test_models_that_cannot_be_converted(function, opset, said, tmp_path):
    expect_failure(tmp_path, said, Any(function), unnamed(), opset=opset)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"opset": 10}, "opset is 10: expected 11 to 20"),
        ({"opset": 21}, "opset is 21"),
        ({"opset": None}, "opset is None"),
        ({"batch": 0}, "batch is 0"),
        ({"batch": 1.5}, "batch is 1.5"),
        ({"image_shape": (3, 224, 224)}, "image_shape is"),
        ({"metadata": {}}, "export-onnx"),
        ({"samples": np.zeros((0, *SHAPE), np.float32)}, "samples have shape"),
        ({"samples": np.zeros((2, 3, 8, 8), np.float32)}, "samples have shape"),
    ],
)
def test_wrong_arguments_are_refused_before_any_work(arguments, said, tmp_path):
    expect_failure(tmp_path, said, None, METADATA.to_properties(), **arguments)


def test_too_many_class_names(tmp_path):
    many = Metadata(METADATA.architecture, METADATA.preprocessing, ("a",) * 6)
    expect_failure(tmp_path, "has 6 class names, and there are 5 classes", make_net(), many.to_properties())


@pytest.mark.parametrize("package", ["paddle2onnx", "onnx", "onnxslim", "onnxruntime"])
def test_a_missing_package_is_named_before_any_work(package, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    expect_failure(
        tmp_path, rf'{package} is missing: pip install "ppcls-ext\[(onnx|predict)\]"', None, METADATA.to_properties()
    )


def test_places_that_cannot_be_written(converted, tmp_path):
    (tmp_path / "file").write_text("")
    for output, said in ((tmp_path, "is a folder"), (tmp_path / "file" / "net.onnx", "cannot write")):
        with pytest.raises(PpclsExtError, match=said) as caught:
            export_onnx(converted(), output, image_shape=SHAPE, metadata=METADATA.to_properties())
        assert str(output) in str(caught.value)
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_a_full_disk(converted, tmp_path, monkeypatch):
    """The system itself refuses to write more than 4 KiB, from the moment when the file is due."""
    write = pipeline.write_file
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill_the_disk_then_write(*arguments):
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
        return write(*arguments)

    monkeypatch.setattr(pipeline, "write_file", fill_the_disk_then_write)
    try:
        expect_failure(tmp_path, os.strerror(errno.EFBIG), converted(), METADATA.to_properties())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_samples_are_read_one_by_one(tmp_path, monkeypatch, capsys):
    """Many samples take no more memory than one; files that are open can be read only once, and are kept."""
    levels = np.random.default_rng(0).integers(0, 256, (3, 40, 30, 3), dtype=np.uint8)
    for index, image in enumerate(levels):
        Image.fromarray(image).save(tmp_path / f"{index}.png")
    alive, most = [], []

    def read(image, rule):
        array = network_input(image, rule)
        alive[:] = [kept for kept in alive if kept() is not None]
        alive.append(weakref.ref(array))
        most.append(len(alive))
        return array

    monkeypatch.setattr("ppcls_ext.data.image_input.network_input", read)
    monkeypatch.setattr("ppcls_ext.progress.FIRST", 0.0)
    monkeypatch.setattr("ppcls_ext.progress.EVERY", 0.0)
    options = {"size": PIXELS, "class_names": METADATA.class_names}
    with open(tmp_path / "0.png", "rb") as stream:
        samples = [stream, *(tmp_path / f"{index % 3}.png" for index in range(29))]
        report = export_with_rule(make_net(), tmp_path / "net.onnx", samples=samples, **options)
    assert len(most) == 30 * (3 + len(report.onnx_differences))
    assert max(most) <= 8
    assert capsys.readouterr().err.splitlines()[-1].startswith("comparing the forms: 165 of 165 images, ")


def test_a_full_disk_for_temporary_files(tmp_path):
    """Paddle's C++ writes what there is room for; paddle2onnx would fail on half a program."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        message = r"cannot write .*model\.json, a temporary file: [\d,.]+ MiB are free on the disk of .*TMPDIR"
        expect_failure(tmp_path, message, make_net(), METADATA.to_properties())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
