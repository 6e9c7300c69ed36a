"""A multi-label file: its scores, and what `predict` prints, writes and draws for several classes, one and none."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import numpy as np
import onnx
import paddle
import pytest
from PIL import Image

import ppcls_ext
from ppcls_ext.commands import explain, predict
from ppcls_ext.commands.outcome import run
from ppcls_ext.errors import PpclsExtError
from ppcls_ext.predict.classifier import Classifier
from ppcls_ext.predict.evidence import read_each, read_evidence, split_file
from ppcls_ext.predict.latency import measure_files
from ppcls_ext.predict.results import NO_CLASS
from ppcls_ext.predict.runtimes import installed
from tests.tiny_net import PIXELS, make_net

CLASSES = ("Gänseblümchen", "菊花", 'a "quoted" name', "rose", "🌻")
KEYS = ["file_name", "class_ids", "scores", "label_names"]


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (6, PIXELS, PIXELS, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def exported(tmp_path_factory, images):
    """The net, whose logits on `images` have mean 0 and variance 4, and its files that end in scores and in logits."""
    pytest.importorskip("paddle2onnx", reason="needs paddle2onnx, which has no wheel for Python 3.13")
    net, folder = make_net(), tmp_path_factory.mktemp("multi_label")
    inputs = paddle.to_tensor((images / np.float32(255)).transpose(0, 3, 1, 2) * 2 - 1)
    net.eval()
    with paddle.no_grad():
        logits = net(inputs).numpy()
        scale = 2 / logits.std(axis=0)
        net.linear.weight.set_value(net.linear.weight.numpy() * scale)
        net.linear.bias.set_value((net.linear.bias.numpy() - logits.mean(axis=0)) * scale)
        expected = paddle.nn.functional.sigmoid(net(inputs)).numpy()
    rule = {"resize_short": PIXELS, "mean": (0.5,) * 3, "std": (0.5,) * 3}
    options = {"size": PIXELS, "class_names": CLASSES, "task": "multi-label", "preprocessing": rule}
    ppcls_ext.export_onnx(net, folder / "scores.onnx", **options)
    ppcls_ext.export_onnx(net, folder / "logits.onnx", softmax=False, thresholds=[0.9, 0.1, 0.5, 0.5, 0.5], **options)
    return folder, expected


@pytest.fixture
def pictures(images, tmp_path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for index, image in enumerate(images):
        Image.fromarray(image).save(folder / f"{index}.png")
    return folder


def printed(capsys, *arguments) -> tuple[int, str, str]:
    code = run(lambda: predict.main([str(argument) for argument in arguments]))
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("name", ["scores", "logits"])
def test_scores_are_sigmoids_in_every_runtime(name, runtime, exported, images):
    if not installed(runtime):
        pytest.skip(f"the runtime {runtime} is not installed")
    folder, expected = exported
    classifier = Classifier(folder / f"{name}.onnx", runtime=runtime)
    inputs = (images / np.float32(255)).transpose(0, 3, 1, 2) * 2 - 1
    np.testing.assert_allclose(classifier.scores(inputs), expected, atol=1e-5)
    with pytest.raises(PpclsExtError, match="a multi-label network has no probabilities that sum up to 1"):
        classifier.probabilities(inputs)
    assert onnx.load(folder / f"{name}.onnx").graph.output[0].name == name


def test_every_class_at_or_above_its_threshold(exported, images):
    folder, expected = exported
    results = Classifier(folder / "scores.onnx")(list(images))
    assert {len(result["class_ids"]) for result in results} > {1, 2}
    for result, scores in zip(results, expected):
        assert sorted(result["class_ids"]) == np.flatnonzero(scores >= 0.5).tolist()
        assert result["scores"] == sorted(result["scores"], reverse=True)
        assert result["label_names"] == [CLASSES[index] for index in result["class_ids"]]
    own = Classifier(folder / "logits.onnx")
    for result, scores in zip(own(list(images)), expected):
        assert sorted(result["class_ids"]) == np.flatnonzero(scores >= [0.9, 0.1, 0.5, 0.5, 0.5]).tolist()
    assert [result["class_ids"] for result in own(list(images), threshold=0.5)] == [
        result["class_ids"] for result in results
    ]


def test_no_class_is_an_answer(exported, pictures, capsys, tmp_path):
    folder, _ = exported
    arguments = [folder / "scores.onnx", pictures, "--threshold", "1"]
    code, out, err = printed(
        capsys, *arguments, "--json", "--out", tmp_path / "r.csv", "--save-image", tmp_path / "png"
    )
    assert (code, err.splitlines()[-1].startswith("7 images written")) == (0, True)  # six, and a sheet
    for result in json.loads(out):
        assert list(result) == KEYS
        assert [result[key] for key in KEYS[1:]] == [[], [], []]
    with open(tmp_path / "r.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(Path(row["file_name"]).name, row["class_id"], row["score"]) for row in rows] == [
        (f"{index}.png", "", "") for index in range(6)
    ]
    assert {path.name for path in (tmp_path / "png").iterdir()} == {f"{i}.png" for i in range(6)} | {"sheet-01.png"}
    code, out, err = printed(capsys, *arguments)
    assert (code, err) == (0, "")
    assert out.splitlines()[0] == f"{pictures / '0.png'}   {NO_CLASS}"


def test_the_form_is_that_of_single_label(exported, pictures, capsys, tmp_path):
    folder, expected = exported
    code, out, _ = printed(capsys, folder / "scores.onnx", pictures, "--json", "--out", tmp_path / "r.json")
    assert code == 0
    results = json.loads(out)
    assert results == json.loads((tmp_path / "r.json").read_text(encoding="utf-8"))
    assert all(list(result) == KEYS for result in results)
    _, out, _ = printed(capsys, folder / "scores.onnx", pictures)
    for line, result in zip(out.splitlines(), results):
        cells = re.findall(r"   (\S.*?)\s+(\d\.\d\d)", line)
        assert [name for name, _ in cells] == result["label_names"]
        assert [float(score) for _, score in cells] == pytest.approx(result["scores"], abs=0.0051)
    assert sum(len(result["class_ids"]) for result in results) == (expected >= 0.5).sum()


@pytest.mark.parametrize(
    ("options", "thresholds", "most"),
    [
        (["--threshold", "0.2"], [0.2] * 5, 5),
        (["--threshold", "0.2", "--topk", "1"], [0.2] * 5, 1),
        (["--threshold", "菊花=0.9"], [0.5, 0.9, 0.5, 0.5, 0.5], 5),
        (
            ["--threshold", "0.9", "--threshold", "0=0.1", "--threshold", 'a "quoted" name=0'],
            [0.1, 0.9, 0, 0.9, 0.9],
            5,
        ),
        (["--topk", "1"], [0.5] * 5, 1),
    ],
)
def test_thresholds_and_topk_of_the_command(options, thresholds, most, exported, pictures, capsys):
    folder, expected = exported
    code, out, _ = printed(capsys, folder / "scores.onnx", pictures, "--json", *options)
    assert code == 0
    for result, scores in zip(json.loads(out), expected):
        shown = [index for index in np.argsort(-scores) if scores[index] >= thresholds[index]]
        assert result["class_ids"] == shown[:most]


@pytest.mark.parametrize("options", [["--threshold", "0.2"], ["--threshold", "0.2", "--topk", "2"]])
def test_a_threshold_of_a_single_label_file(options, tmp_path, pictures, capsys):
    pytest.importorskip("paddle2onnx", reason="needs paddle2onnx, which has no wheel for Python 3.13")
    path = tmp_path / "single.onnx"
    ppcls_ext.export_onnx(make_net(), path, size=PIXELS)
    _, everything, _ = printed(capsys, path, pictures, "--json")
    code, out, _ = printed(capsys, path, pictures, "--json", *options)
    assert code == 0
    for result, full in zip(json.loads(out), json.loads(everything)):
        shown = [score for score in full["scores"] if score >= 0.2]
        assert result["scores"] == shown[: 2 if "--topk" in options else None]


@pytest.mark.parametrize("text", ["1.5", "-1", "nan", "a", "cat=", "cat=2", "="])
def test_thresholds_that_are_none(text, capsys):
    with pytest.raises(SystemExit) as caught:
        predict.main(["m.onnx", "a.png", f"--threshold={text}"])
    assert caught.value.code == 2
    assert "expected a number from 0 to 1, or CLASS=NUMBER" in capsys.readouterr().err


def test_a_class_that_does_not_exist_is_one_line(exported, pictures, capsys):
    folder, _ = exported
    code, out, err = printed(capsys, folder / "scores.onnx", pictures, "--threshold", "tulip=0.2")
    assert (code, out) == (1, "")
    assert err.startswith("error: threshold is for 'tulip': expected a class's number or name")
    assert err.count("\n") == 1


def test_metadata_and_graph_that_contradict_each_other(exported, tmp_path):
    model = onnx.load(exported[0] / "scores.onnx")
    for entry in model.metadata_props:
        entry.value = {"task": "single-label", "schema_version": "1"}.get(entry.key, entry.value)
    onnx.save(model, tmp_path / "m.onnx")
    with pytest.raises(
        PpclsExtError, match=r"m\.onnx: the network's output is called scores, and its metadata say sing"
    ):
        Classifier(tmp_path / "m.onnx")


def test_it_is_timed_as_any_file(exported):
    """What `bench` does with a file."""
    files = {"file": exported[0] / "scores.onnx"}
    (row,) = measure_files("m", files, ["onnxruntime"], threads=1, turns=1)
    assert row["median"] > 0


def test_arguments_of_the_export(tmp_path):
    for options, words in (
        ({"task": "multilabel"}, "task is 'multilabel': expected single-label or multi-label"),
        ({"thresholds": [0.5] * 5}, "thresholds are for a multi-label model"),
        ({"task": "multi-label", "thresholds": [0.5] * 4}, "4 thresholds for a network of 5 classes"),
        ({"task": "multi-label", "thresholds": [2] * 5}, "threshold is 2: expected a number from 0 to 1"),
    ):
        with pytest.raises(PpclsExtError, match=words):
            ppcls_ext.export_onnx(make_net(), tmp_path / "m.onnx", size=PIXELS, **options)
    assert not list(tmp_path.iterdir())


def explained(capsys, *arguments) -> list[str]:
    assert run(lambda: explain.main([str(argument) for argument in arguments])) == 0
    return capsys.readouterr().out.splitlines()


@pytest.mark.parametrize(("name", "thresholds"), [("scores", [0.5] * 5), ("logits", [0.9, 0.1, 0.5, 0.5, 0.5])])
def test_a_map_for_each_class_that_an_image_shows(name, thresholds, exported, pictures, capsys, tmp_path):
    folder, expected = exported
    lines = explained(capsys, folder / f"{name}.onnx", pictures, "--output", tmp_path / "maps")
    wanted = []
    for number, scores in enumerate(expected):
        shown = [index for index in np.argsort(-scores) if scores[index] >= thresholds[index]]
        names = [CLASSES[index] for index in shown]
        wanted += [
            f"{tmp_path / 'maps' / f'{number}-class-{index}.png'}  {text} {scores[index]:.1%}"
            for index, text in zip(shown, names)
        ] or [f"{pictures / f'{number}.png'}  {NO_CLASS}; --class draws the evidence for one"]
    assert lines == wanted
    drawn = {path.name for path in (tmp_path / "maps").iterdir()}
    assert drawn == {Path(line.split("  ")[0]).name for line in lines if NO_CLASS not in line}


def test_a_map_of_one_class(exported, pictures, capsys, tmp_path):
    folder, expected = exported
    lines = explained(capsys, folder / "scores.onnx", pictures, "--class", "菊花", "--output", tmp_path / "maps")
    assert [line.split("  ")[1] for line in lines] == [f"菊花 {scores[1]:.1%}" for scores in expected]
    assert explained(capsys, folder / "scores.onnx", pictures, "--class", "1", "--output", tmp_path / "more") != []
    assert run(lambda: explain.main([str(folder / "scores.onnx"), str(pictures), "--class", "tulip"])) == 1
    assert "--class is 'tulip': expected a class's number or name" in capsys.readouterr().err


def test_the_evidence_is_that_of_each_class_alone(exported, images):
    folder, _ = exported
    halves = split_file(folder / "scores.onnx")
    image = ((images[0] / np.float32(255)) * 2 - 1).transpose(2, 0, 1)
    together = read_each(halves, image, lambda logits: [3, 1])
    for evidence, index in zip(together, (3, 1)):
        alone = read_evidence(halves, image, index)
        assert evidence.class_index == alone.class_index == index
        np.testing.assert_array_equal(evidence.derivative, alone.derivative)
    assert read_each(halves, image, lambda logits: []) == []
    with pytest.raises(PpclsExtError, match="there is no class 5"):
        read_each(halves, image, lambda logits: [0, 5])
