"""What both hosts share, without either: nets, frozen parts, fusing with proof, programs, differences, checkouts."""

from __future__ import annotations

import json
import re
import sys

import numpy as np
import paddle
import pytest
from paddle import nn

import ppcls_ext
from ppcls_ext.commands import host_script
from ppcls_ext.errors import PpclsExtError
from ppcls_ext.export.comparison import OnnxSession
from ppcls_ext.export.differences import largest_difference, require_same
from ppcls_ext.export.program import Program, comparison_inputs, operators
from ppcls_ext.export.program_to_onnx import find_prefix, program_to_onnx, score_outputs, with_float32_numbers
from ppcls_ext.hosts.dense import adaptations, checkouts
from ppcls_ext.hosts.dense.maps import build_net, freeze_norms, freeze_parameters
from ppcls_ext.hosts.dense.proof import fuse_with_proof, prove_exports, require_no_branches
from tests.helpers import needs_converter, randomise_norms, relative
from tests.models.test_models import SMALL


def trained(name: str):
    paddle.seed(0)
    net = build_net(name, None, fused=False)
    randomise_norms(net, seed=1)
    return net


@pytest.mark.parametrize("name", SMALL)
def test_fuse_with_proof(name):
    net = trained(name)
    net.eval()
    x = paddle.randn([1, 3, 64, 64])
    before = net(x)
    fuse_with_proof(net)
    require_no_branches(net)
    for got, expected in zip(net(x), before):
        assert relative(got, expected) < 1e-5
    # FasterNet's normalisations of the maps stay
    left = [layer for layer in net.sublayers() if isinstance(layer, nn.BatchNorm2D)]
    assert len(left) == (4 if name.startswith("FasterNet") else 0)
    fuse_with_proof(net)  # a second call does nothing


@pytest.mark.parametrize("name", SMALL)
def test_a_wrong_fusion_is_noticed(name, monkeypatch):
    net = trained(name)
    layer = next(layer for layer in net.sublayers() if hasattr(layer, "is_repped"))
    right = type(layer).re_parameterize

    def wrong(self):
        right(self)
        self.fused_conv.bias.set_value(self.fused_conv.bias + 0.1)

    monkeypatch.setattr(type(layer), "re_parameterize", wrong)
    with pytest.raises(PpclsExtError, match="differ by"):
        fuse_with_proof(net)


def test_branches_left_are_noticed():
    net = trained("RepVGG_A0")
    with pytest.raises(PpclsExtError, match="training branches"):
        require_no_branches(net)


@pytest.mark.parametrize("name", SMALL)
def test_frozen_parts_keep_weights_and_statistics(name):
    net = trained(name)
    frozen = [layer for part in net.parts()[:2] for layer in part]
    freeze_parameters(frozen)
    freeze_norms(frozen)
    kept = {id(tensor): tensor.numpy() for layer in frozen for tensor in layer.state_dict().values()}
    optimizer = paddle.optimizer.SGD(0.1, parameters=[p for p in net.parameters() if not p.stop_gradient])
    net.train()
    before = net.state_dict()
    moved = {key: tensor.numpy() for key, tensor in before.items()}
    sum(map_.square().mean() for map_ in net(paddle.randn([2, 3, 64, 64]))).backward()
    optimizer.step()
    changed = 0
    for key, tensor in net.state_dict().items():
        if id(tensor) in kept:
            np.testing.assert_array_equal(tensor.numpy(), kept[id(tensor)], err_msg=key)
        else:
            changed += not np.array_equal(tensor.numpy(), moved[key])
    assert changed > 10


def test_fused_weights_need_fused_true(tmp_path):
    paddle.save(ppcls_ext.build("MobileOne_S0", fused=True).state_dict(), str(tmp_path / "fused.pdparams"))
    with pytest.raises(PpclsExtError, match="fused: True"):
        build_net("MobileOne_S0", str(tmp_path / "fused.pdparams"), fused=False)
    assert build_net("MobileOne_S0", str(tmp_path / "fused.pdparams"), fused=True).arch == "MobileOne_S0"


class Segmenter(nn.Layer):
    """A host's model in small: a net, an interpolation with float64 scales, class indices."""

    def __init__(self):
        super().__init__()
        self.backbone = trained("RepVGG_A0")
        self.head = nn.Conv2D(1280, 4, 1)

    def forward(self, x):
        x = nn.functional.interpolate(self.head(self.backbone(x)[3]), scale_factor=32, mode="bilinear")
        return [x, paddle.argmax(x, axis=1, dtype="int32")]


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """What a host's export writes, through the wrapped `paddle.jit`."""
    folder = tmp_path_factory.mktemp("exported")
    module = type(sys)("host")
    module.paddle = paddle
    prove_exports(module, arguments=lambda inputs: inputs["x"])
    prove_exports(module, arguments=lambda inputs: inputs["x"])
    paddle.seed(0)
    model = Segmenter()
    model.eval()
    spec = [paddle.static.InputSpec([1, 3, 64, 64], "float32", name="x")]
    static = module.paddle.jit.to_static(model, input_spec=spec, full_graph=True)
    module.paddle.jit.save(static, str(folder / "model"))
    return folder, module, static


def test_the_export_fuses_and_leaves_two_files(exported):
    folder, _, static = exported
    require_no_branches(static.backbone)
    assert sorted(path.name for path in folder.iterdir()) == ["model.json", "model.pdiparams"]
    program = Program(folder / "model")
    assert program.picture == ("x", (1, 3, 64, 64))
    assert not program.free_size
    assert set(comparison_inputs(program)) == {"noise", "levels", "normalised levels"}


def test_a_program_that_differs_is_not_written(exported, tmp_path, monkeypatch):
    _, module, static = exported
    monkeypatch.setattr(
        "ppcls_ext.hosts.dense.proof.eager_outputs", lambda layer, x: [(o + 1).numpy() for o in layer(x)]
    )
    with pytest.raises(PpclsExtError, match="nothing was written"):
        module.paddle.jit.save(static, str(tmp_path / "model"))
    assert list(tmp_path.iterdir()) == []


def test_the_eager_answer_is_the_layers_own(exported, tmp_path):
    """The comparison is with the operations one by one, not with the program itself."""
    _, module, static = exported
    ran = []
    hook = static.head.register_forward_post_hook(lambda *_: ran.append(paddle.in_dynamic_mode()))
    module.paddle.jit.save(static, str(tmp_path / "model"))
    hook.remove()
    assert ran.count(True) == 3  # one for each kind of input


@needs_converter
def test_onnx(exported, tmp_path):
    folder, _, _ = exported
    picture = np.random.default_rng(0).integers(0, 256, (40, 50, 3)).astype(np.uint8)
    report = program_to_onnx(folder, tmp_path / "model.onnx", pictures=[picture])
    assert report.difference < 1e-5
    assert report.nodes["Conv"] == 23  # 22 blocks and the head
    assert "BatchNormalization" not in report.nodes
    assert report.inputs == ["x (1, 3, 64, 64)"]
    assert report.path.stat().st_size > 1_000_000
    assert "onnxruntime from Paddle" in str(report)


@needs_converter
def test_onnx_that_differs_is_not_written(exported, tmp_path, monkeypatch):
    folder, _, _ = exported
    right = OnnxSession.run
    monkeypatch.setattr(OnnxSession, "run", lambda session, inputs: [o + 1 for o in right(session, inputs)])
    monkeypatch.setattr(
        "ppcls_ext.export.program_to_onnx.comparison_inputs",
        lambda *_: {"noise": {"x": np.ones((1, 3, 64, 64), np.float32)}},
    )
    with pytest.raises(PpclsExtError, match="nothing was written"):
        program_to_onnx(folder, tmp_path / "model.onnx")
    assert list(tmp_path.iterdir()) == []


# as Paddle writes them
SCALES = "a_f64" if tuple(map(int, paddle.__version__.split(".")[:2])) >= (3, 3) else "a_f32"


def test_float64_scales_are_narrowed(exported, tmp_path):
    folder, _, _ = exported
    program = json.loads((folder / "model.json").read_text())
    narrowed = json.loads(with_float32_numbers(folder / "model.json", tmp_path).read_text())
    kinds = set()
    for before, after in zip(operators(program), operators(narrowed)):
        text = json.dumps(before)
        if "_interp" in before["#"]:
            kinds |= set(re.findall(r"a_f\d\d", text))
            text = text.replace("0.a_f64", "0.a_f32")
        assert json.dumps(after) == text
    assert kinds == {SCALES}


def test_which_program(exported, tmp_path):
    folder, _, _ = exported
    expected = folder / "model"
    assert {find_prefix(path) for path in (folder, folder / "model.json", expected)} == {expected}
    with pytest.raises(PpclsExtError, match="holds 0 programs"):
        find_prefix(tmp_path)
    with pytest.raises(PpclsExtError, match="no exported program"):
        Program(tmp_path / "model")


def test_differences():
    a = [np.float32([[1, 2], [3, 4]]), np.int64([[0, 1], [2, 3]])]
    assert largest_difference(a, a) == 0
    assert largest_difference([a[0] + 1, a[1]], a) == pytest.approx(0.25)
    assert largest_difference([np.ones(1)], [np.float32(2)]) == 0.5
    assert largest_difference([a[0], a[1] * 0], a) == 0.75  # indices: the share that differs
    assert np.isnan(largest_difference([a[0] * np.nan, a[1]], a))
    with pytest.raises(PpclsExtError, match="shapes differ"):
        largest_difference([a[0][:1], a[1]], a)
    with pytest.raises(PpclsExtError, match="shapes differ"):
        largest_difference(a[:1], a)


def test_differences_of_detections():
    rows = np.float32([[0, 0.9, 1, 2, 30, 40], [2, 0.9, 5, 5, 90, 100], [1, 0.2, 0, 0, 9, 9]])
    assert largest_difference([rows[[1, 0, 2]]], [rows]) == 0
    for column, change, expected in ((0, 1, 1), (1, 0.01, 0.01), (4, 1, 0.01)):
        other = rows.copy()
        other[0, column] += change
        assert largest_difference([other], [rows]) == pytest.approx(expected, rel=1e-4)
    doubled = rows[[0, 0, 2]]  # a row instead of another
    assert largest_difference([doubled], [rows]) > 0.1
    assert np.isnan(largest_difference([rows * np.nan], [rows]))
    many = np.arange(600, dtype=np.float32).reshape(100, 6)
    few_others, many_others = many.copy(), many.copy()
    few_others[:4, 2:] += 1000
    many_others[:6, 2:] += 1000
    assert largest_difference([few_others], [many]) == 0
    assert largest_difference([many_others], [many]) > 0.5


def detections(seed: int = 0) -> np.ndarray:
    """Lists of 100 rows of 50 classes, two rows each."""
    random = np.random.default_rng(seed)
    corners = random.uniform(0, 300, (100, 2))
    columns = [np.arange(100) % 50, random.uniform(0.1, 0.9, 100), *corners.T, *(corners + 20).T]
    return np.stack(columns, axis=1).astype(np.float32)


@pytest.mark.parametrize(("rows", "score", "counts"), [(100, 1.0, False), (100, 0.9, True), (20, 1.0, True)])
def test_rounding_chooses_the_rows_of_a_long_list_that_all_score_1(rows, score, counts):
    got, expected = detections(0)[:rows], detections(1)[:rows]
    got[:, 1] = expected[:, 1] = score
    assert (largest_difference([got], [expected]) > 0.01) == counts
    got[0] = [99, score, 0, 0, 1, 1]  # a class that only one list has, not at its end
    got[1:, 1] = expected[:, 1] = score - 0.1
    assert largest_difference([got], [expected]) > 0.05


def test_scores_of_sigmoids_are_compared_as_they_are():
    """Small ones that differ by onnxruntime's rounding are the same; a root of them is compared by its square."""
    from onnx import helper, numpy_helper

    nodes = [
        helper.make_node("Sigmoid", ["x"], ["s"]),
        helper.make_node("Mul", ["s", "s"], ["ss"]),
        helper.make_node("Add", ["ss", "tiny"], ["a"]),
        helper.make_node("Sqrt", ["a"], ["root"]),
        helper.make_node("Mul", ["s", "x"], ["silu"]),
        helper.make_node("Mul", ["s", "large"], ["scaled"]),
    ]
    outputs = [helper.make_tensor_value_info(name, 1, [2]) for name in ("s", "root", "silu", "scaled")]
    numbers = [numpy_helper.from_array(np.float32(value), name) for name, value in (("tiny", 1e-9), ("large", 9.0))]
    graph = helper.make_graph(nodes, "g", [helper.make_tensor_value_info("x", 1, [2])], outputs, numbers)
    scores = score_outputs(helper.make_model(graph))
    assert scores == {0: 1, 1: 2}
    expected = [np.float32([1e-4, 2e-4])] * 2 + [np.float32([1, 2])] * 2
    shifted = [expected[0] + 1e-5, np.sqrt(expected[1] ** 2 + 1e-8), *expected[2:]]
    assert largest_difference(shifted, expected) > 0.04
    assert largest_difference(shifted, expected, scores) < 2e-5
    assert largest_difference([expected[0] + 0.01, *expected[1:]], expected, scores) > 9e-3


def test_a_class_of_few_rows_counts():
    """One class in fifty scored otherwise, or lost, is a fault; a box chosen instead of an equal one is none."""
    rows = detections()
    of_class = rows[:, 0] == 7
    scored, lost, chosen = rows.copy(), rows.copy(), rows.copy()
    scored[of_class, 1] += 0.05
    lost[of_class, 0] = 8
    lost[of_class, 1] = rows[:, 1].min()
    worse = np.flatnonzero(of_class)[rows[of_class, 1].argmin()]
    chosen[worse, 2:] += 5
    assert largest_difference([scored], [rows]) == pytest.approx(0.05, rel=1e-3)
    assert largest_difference([lost], [rows]) == largest_difference([rows], [lost]) > 0.05
    assert largest_difference([chosen], [rows]) == 0


def test_a_class_that_the_end_of_the_list_cuts_off_is_none():
    rows = detections()
    last = rows[:, 1].argmin()
    rows[last, 0] = 60
    other = rows.copy()
    other[last, 0] = 61
    assert largest_difference([other], [rows]) == 0


def test_rounding_is_allowed_for_and_no_more():
    inputs = {"x": np.ones((1, 3, 4, 4), np.float32), "scale_factor": np.ones((1, 2), np.float32)}

    def magnifies(given):  # a change of 1e-6 moves the outputs by about 1e-3
        return [np.float32([1 + 1e3 * (given["x"].astype("float64") - 1).max()]), given["scale_factor"]]

    near = [magnifies(inputs)[0] + np.float32(5e-4), inputs["scale_factor"]]
    assert require_same("forms", near, magnifies, inputs) == pytest.approx(5e-4, rel=1e-3)
    with pytest.raises(PpclsExtError, match="forms differ by"):
        require_same("forms", [near[0] + 0.1, near[1]], magnifies, inputs)
    with pytest.raises(PpclsExtError, match="forms differ by"):
        require_same("forms", [inputs["x"] + 5e-4], lambda given: [given["x"]], inputs)
    with pytest.raises(PpclsExtError, match="differ by nan"):
        require_same("forms", [inputs["x"] * np.nan], lambda given: [given["x"]], inputs)


@pytest.mark.parametrize("host", [checkouts.PADDLEDET, checkouts.PADDLESEG], ids=lambda host: host.title)
def test_checkouts(host, tmp_path, monkeypatch):
    monkeypatch.delenv(host.home, raising=False)
    monkeypatch.setattr(sys, "path", [str(tmp_path / "site"), *sys.path])
    for name in [name for name in sys.modules if name.split(".")[0] == host.package]:
        monkeypatch.delitem(sys.modules, name)
    if not checkouts.importlib.util.find_spec(host.package):
        with pytest.raises(PpclsExtError, match=f"no {host.title}"):
            checkouts.activate(host)
    script = tmp_path / "checkout" / "tools" / "train.py"
    assert checkouts.of_script(script) is None
    for folder in ("checkout", "site"):
        package = tmp_path / folder / host.package
        package.mkdir(parents=True)
        (package / "__init__.py").write_text("")
    assert checkouts.of_script(script) is host
    monkeypatch.setenv(host.home, str(tmp_path / "checkout"))
    assert checkouts.activate(host) == tmp_path / "checkout"
    monkeypatch.setenv(host.home, str(tmp_path))
    with pytest.raises(PpclsExtError, match="expected a checkout"):
        checkouts.activate(host)
    # the wheel
    monkeypatch.delenv(host.home)
    monkeypatch.setattr(sys, "path", [str(tmp_path / "site"), *sys.path])
    checkouts.importlib.invalidate_caches()
    info = tmp_path / "site" / f"{host.wheel}-{host.last_wheel}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {host.wheel}\nVersion: {host.last_wheel}\n")
    with pytest.raises(PpclsExtError, match="is the wheel, which does not train"):
        checkouts.activate(host)


def test_a_package_that_the_host_misses(tmp_path, monkeypatch):
    """A script that its checkout's environment cannot run, in one line that says where its packages are listed."""
    script = tmp_path / "tools" / "train.py"
    for file, text in ((tmp_path / "paddleseg/__init__.py", ""), (script, "import no_such_module")):
        file.parent.mkdir()
        file.write_text(text)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "argv", list(sys.argv))
    monkeypatch.setitem(host_script.REGISTER, "paddleseg", lambda: None)
    monkeypatch.delitem(sys.modules, "paddleseg", raising=False)
    with pytest.raises(PpclsExtError, match=r"PaddleSeg needs the module no_such_module.*requirements\.txt"):
        host_script.main([str(script)])


def test_scalars_of_tensors():
    needed = adaptations._tensors_are_no_scalars()
    assert needed == bool(np.lib.NumpyVersion(np.__version__) >= "2.4.0")
    kept = {name: getattr(paddle.Tensor, name) for name in ("__int__", "__long__", "__float__", "__index__")}
    try:
        adaptations._scalars_of_tensors()
        assert not adaptations._tensors_are_no_scalars()
        assert int(paddle.to_tensor([3])) == int(paddle.to_tensor(3)) == range(9)[paddle.to_tensor([3])] == 3
        assert float(paddle.to_tensor([[0.5]])) == 0.5
        with pytest.raises(Exception, match="only one element"):
            int(paddle.to_tensor([1, 2]))
    finally:
        for name, method in kept.items():
            setattr(paddle.Tensor, name, method)


def test_int_of_arrays():
    assert adaptations._Int(np.array([7])) == 7
    assert adaptations._Int("12") == 12
    assert isinstance(3, adaptations._Int)
    with pytest.raises(TypeError):
        adaptations._Int(np.array([1, 2]))
