"""ppcls_ext.export.program: what a host's export writes, proved, then converted and proved again."""

from __future__ import annotations

import json
import re
import sys

import numpy as np
import paddle
import pytest
from paddle import nn

from ppcls_ext.errors import PpclsExtError
from ppcls_ext.export.comparison import OnnxSession
from ppcls_ext.export.fusion_proof import require_no_branches
from ppcls_ext.export.program import (
    Program,
    find_prefix,
    operators,
    program_inputs,
    program_to_onnx,
    with_float32_numbers,
)
from ppcls_ext.hosts.dense import are_exports_proved, build_net, prove_exports
from tests.helpers import needs_converter, randomise_norms


class Segmenter(nn.Layer):
    """A host's model in small: a net, an interpolation with float64 scales, class indices."""

    def __init__(self):
        super().__init__()
        self.backbone = build_net("RepVGG_A0", None, fused=False)
        randomise_norms(self.backbone, seed=1)
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
    assert not are_exports_proved(module)
    prove_exports(module, arguments=lambda inputs: inputs["x"])
    assert are_exports_proved(module)
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
    assert program.image_input == ("x", (1, 3, 64, 64))
    assert not program.free_size
    assert set(program_inputs(program)) == {"noise", "levels", "normalised levels"}


def test_a_program_that_differs_is_not_written(exported, tmp_path, monkeypatch):
    _, module, static = exported
    monkeypatch.setattr("ppcls_ext.export.program.eager_outputs", lambda layer, x: [(o + 1).numpy() for o in layer(x)])
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
    report = program_to_onnx(folder, tmp_path / "model.onnx", images=[picture])
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
        "ppcls_ext.export.program.program_inputs",
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
