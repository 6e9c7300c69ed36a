"""A multi-label run, from its weights to every form: scores are sigmoids of its logits, and the decisions agree."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import onnx
import paddle
import pytest
from PIL import Image

import ppcls_ext
from ppcls_ext.commands import export_onnx, verify
from ppcls_ext.commands.outcome import run as run_command
from ppcls_ext.data.image_rule import Preprocessing
from ppcls_ext.errors import PpclsExtError
from ppcls_ext.export import comparison, int8
from ppcls_ext.export.agreement import compare_runtimes
from ppcls_ext.export.float16 import reduce_to_float16
from ppcls_ext.export.graph import Graph
from ppcls_ext.predict.classifier import Classifier
from ppcls_ext.predict.metadata import Metadata
from ppcls_ext.predict.onnx_file import logits_name
from ppcls_ext.predict.runtimes import installed
from ppcls_ext.report.evidence_maps import EvidenceMaps
from tests.export.conftest import CLASSES, PIXELS, make_pictures
from tests.helpers import needs_converter
from tests.multi_label_run import NAMES, images_of

pytestmark = needs_converter
THRESHOLDS = (0.7, 0.8, 0.6)
RULE = Preprocessing(resize_short=PIXELS, crop=(PIXELS, PIXELS))
#: With squeeze-and-excitation, whose Sigmoids do run in integers.
one_net = pytest.mark.parametrize("fp32", ["MobileOne"], indirect=True)
EXPECTED = Metadata("RepVGG_A0", RULE, None, task="multi-label", thresholds=(0.3, 0.5, 0.5, 0.5, 0.9))


def properties(path: Path) -> dict[str, str]:
    return {entry.key: entry.value for entry in onnx.load(path).metadata_props}


def test_every_form_of_a_run_gives_the_scores_of_its_logits(multi_label_run, capsys):
    images, files = images_of(multi_label_run), sorted(Path("png").iterdir())
    override = ["-o", f"Infer.PostProcess.threshold={list(THRESHOLDS)}".replace(" ", "")]
    run = ppcls_ext.Run(multi_label_run, override[1:])
    run.model.eval()
    with paddle.no_grad():
        expected = paddle.nn.functional.sigmoid(run.model(paddle.to_tensor(images))).numpy()
    shown = [np.flatnonzero(row >= THRESHOLDS).tolist() for row in expected]
    assert {len(found) for found in shown} >= {0, 1, 2}

    floats, logits, halves = (multi_label_run / f"{name}.onnx" for name in ("floats", "logits", "halves"))
    for path, options in ((floats, []), (logits, ["--no-softmax"]), (halves, ["--fp16"])):
        command = [str(multi_label_run), *override, "--output", str(path), *options]
        assert run_command(lambda command=command: export_onnx.main(command)) == 0
    printed = capsys.readouterr().out
    assert "output  scores (batch, 3)" in printed
    assert "output  logits (batch, 3)" in printed
    assert "from whose scores by" in printed
    forms = {path.stem: Classifier(path) for path in (floats, logits)}
    if installed("openvino"):
        forms.update({f"openvino {path.stem}": Classifier(path, runtime="openvino") for path in (floats, logits)})
    for name, form in forms.items():
        assert form.metadata == run.metadata, name
        np.testing.assert_allclose(form.scores(images), expected, atol=1e-5, err_msg=name)
        assert [sorted(result["class_ids"]) for result in form(files)] == shown, name
    assert [sorted(result["class_ids"]) for result in run.predict(files)] == shown
    for file, found, row in zip(files[:6], shown, expected):
        maps = EvidenceMaps(run.halves(), run.metadata, "explained").draw(file)
        assert sorted(one.name for one in maps) == sorted(NAMES[index] for index in found)
        assert [one.score for one in maps] == pytest.approx(sorted(row[found], reverse=True), abs=1e-5)
    assert run.metadata.thresholds == THRESHOLDS
    assert run.metadata.class_names == NAMES
    assert properties(halves)["task"] == "multi-label"
    np.testing.assert_allclose(Classifier(halves).scores(images), expected, atol=0.02)


def test_int8_of_a_run(multi_label_run, capsys):
    path = multi_label_run / "int8.onnx"
    options = ["--int8", "--calibration", "twice", "--allow", "--output", str(path)]
    Path("twice").mkdir()
    for index in range(48):  # png is the data set of all tests
        Path(f"twice/{index}.png").write_bytes(Path(f"png/{index % 24:02}.png").read_bytes())
    assert run_command(lambda: export_onnx.main([str(multi_label_run), *options])) == 0
    assert " of 24 × 3 labels of other images, " in capsys.readouterr().out
    form = Classifier(path)
    assert dataclasses.replace(form.metadata, quantization=None) == ppcls_ext.Run(multi_label_run).metadata
    scores = form.scores(images_of(multi_label_run))
    assert scores.min() > 0
    assert scores.max() < 1
    said = json.loads(properties(path)["quantization"])
    assert sorted(said) == ["agreement", "checked", "found", "largest_change", "pictures", "type"]


@pytest.fixture(scope="module")
def shown(fp32, tmp_path_factory) -> onnx.ModelProto:
    """The graph of `fp32` with the logits divided by their deviation, and Sigmoid at its end."""
    model = onnx.ModelProto()
    model.CopyFrom(fp32)
    graph = Graph(model)
    (rows,) = graph.piece({graph.input: onnx.TensorProto.FLOAT}, ["logits"]).run(None, {graph.input: make_pictures(64)})
    last = graph.weighted[-1]
    graph.constants[last.input[1]] = graph.constants[last.input[1]] * (2 / rows.std(axis=0))
    graph.set_bias(last, (graph.bias(last) - rows.mean(axis=0)) * (2 / rows.std(axis=0)))
    graph.nodes[-1] = onnx.helper.make_node("Sigmoid", ["logits"], ["scores"], name="scores")
    model = graph.to_model()
    model.graph.output[0].name = "scores"
    del model.metadata_props[:]
    onnx.helper.set_model_props(model, EXPECTED.to_properties())
    onnx.checker.check_model(model, full_check=True)
    return model


@one_net
def test_the_sigmoid_at_the_end_stays_in_floats(shown):
    model, report = int8.quantize(shown, make_pictures(128), allow=True, quiet=True)
    graph = Graph(model)
    assert logits_name(model) == "logits"
    assert graph.producers()["scores"].input[0] == "logits"
    assert graph.producers()["logits"].op_type == "Gemm"
    assert report.operators["QGemm"] == 1
    assert report.operators["Sigmoid"] == 1
    assert (report.answers.images, report.answers.labels) == (64, CLASSES)


@one_net
def test_the_agreement_is_counted_by_label(shown):
    model, report = int8.quantize(shown, make_pictures(128), allow=True, quiet=True)
    order = np.random.default_rng(0).permutation(128)
    checking = make_pictures(128)[np.sort(order[64:])]
    ours, theirs = (np.stack(list(comparison.scores_of(one, checking, EXPECTED))) for one in (model, shown))
    decided = [scores >= EXPECTED.thresholds for scores in (ours, theirs)]
    assert report.answers.same == pytest.approx((decided[0] == decided[1]).mean())
    assert report.answers.change == pytest.approx(np.abs(ours - theirs).max())
    assert 0 < report.answers.change < 1
    both = (decided[0] & decided[1]).sum()
    assert report.answers.found == pytest.approx(2 * both / (decided[0].sum() + decided[1].sum()))
    assert report.answers.same > 0.7


def scores(*rows: list[float]) -> np.ndarray:
    return np.array(rows, np.float32)


def test_a_form_that_finds_nothing_agrees_too_little():
    """One label of twenty is in an image: nearly all decisions are no, and nearly all of them the same."""
    expected = np.full((50, 20), 0.1, np.float32)
    expected[np.arange(50), np.arange(50) % 20] = 0.8
    metadata = dataclasses.replace(EXPECTED, thresholds=None)
    found = comparison.agreement(np.full((50, 20), 0.1, np.float32), expected, metadata)
    assert (found.same, found.found, found.change) == (pytest.approx(0.95), 0.0, pytest.approx(0.7))
    assert not found.is_enough
    assert comparison.agreement(expected, expected, metadata).is_enough
    nothing = np.full((50, 20), 0.1, np.float32)
    assert comparison.agreement(nothing, nothing, metadata).found == 1
    with pytest.raises(PpclsExtError, match="one has 20 classes, the other 19"):
        comparison.agreement(nothing, nothing[:, :19], metadata)


@one_net
def test_too_little_agreement_is_refused(shown, monkeypatch):
    monkeypatch.setattr("ppcls_ext.export.calibration.LEVELS", 3)
    with pytest.raises(
        PpclsExtError, match=r"int8 gives the same decision as fp32 on \d+\.\d% of 32 × 5 labels .*, expected 93%; noth"
    ):
        int8.quantize(shown, make_pictures(64), quiet=True)


@one_net
def test_logits_count_by_their_scores(shown):
    """A file that --no-softmax made: its outputs are no scores, and its thresholds are for scores."""
    graph = Graph(shown)
    del graph.nodes[-1]
    model = graph.to_model()
    model.graph.output[0].name = "logits"
    rows = [np.stack(list(comparison.scores_of(one, make_pictures(8), EXPECTED))) for one in (model, shown)]
    np.testing.assert_allclose(*rows, atol=1e-6)
    _, report = int8.quantize(model, make_pictures(64), allow=True, quiet=True)
    assert report.answers.same > 0.7
    _, halved = reduce_to_float16(model)
    assert 0 < halved.change < 0.05


@one_net
def test_verify_compares_labels(shown, tmp_path, capsys):
    path, pictures = tmp_path / "m.onnx", tmp_path / "png"
    onnx.save(shown, path)
    pictures.mkdir()
    for index in range(4):
        levels = np.random.default_rng(index).integers(0, 256, (40, 50, 3), dtype=np.uint8)
        Image.fromarray(levels).save(pictures / f"{index}.png")
    verified = compare_runtimes(str(path), [str(pictures)])
    assert (verified.images, verified.task) == (4, "multi-label")
    for found in verified.comparisons:
        if found.agreement is not None:
            assert found.agreement.labels == CLASSES
            assert found.agrees
    assert run_command(lambda: verify.main([str(path), str(pictures)])) == 0
    printed = capsys.readouterr().out
    assert " ".join(printed.splitlines()[1].split()) == "runtime difference same label found by both ms"
    if installed("openvino"):
        assert printed.splitlines()[2].split()[-2] == "100.0%"
