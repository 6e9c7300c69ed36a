"""`ppcls-ext eval` of runs and of exported files: one code, one form of result."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

import ppcls_ext
from ppcls_ext.commands.main import main
from ppcls_ext.errors import PpclsExtError
from ppcls_ext.export.pipeline import export_onnx
from tests.helpers import ROOT, needs_converter
from tests.predict.test_classifier import ALONE
from tests.tiny_net import CLASSES, METADATA, PIXELS, make_net


@pytest.fixture(scope="module")
def exported(tmp_path_factory) -> Path:
    pytest.importorskip("paddle2onnx", reason="needs paddle2onnx, which has no wheel for Python 3.13")
    path = tmp_path_factory.mktemp("eval") / "net.onnx"
    export_onnx(make_net(), path, image_shape=(3, PIXELS, PIXELS), metadata=METADATA.to_properties())
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Three images of each class of the tiny network."""
    place = tmp_path_factory.mktemp("images")
    for index, name in enumerate(CLASSES):
        (place / name).mkdir()
        for number in range(3):
            levels = np.random.default_rng(3 * index + number).integers(0, 256, (24, 30, 3), dtype=np.uint8)
            Image.fromarray(levels).save(place / name / f"{number}.png")
    return place


def test_a_file_is_measured_without_paddle_onnx_and_opencv(exported, folder, tmp_path):
    code = "from ppcls_ext.commands.main import main; raise SystemExit(main())"
    (tmp_path / "main.py").write_text(code)
    command = [sys.executable, "-c", ALONE, str(tmp_path / "main.py"), "eval", str(exported), "--data", str(folder)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [*command, "--json"], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, f"{folder}: 15 images of 5 classes\n")
    document = json.loads(done.stdout)
    assert document["images"] == 15
    assert document["metrics"] == ppcls_ext.evaluate(exported, folder).metrics


def test_one_file_and_several(exported, folder, capsys):
    assert main(["eval", str(exported), "--data", str(folder), "--per-class", "--topk", "2", "--threshold", "0.3"]) == 0
    first, second, third, *classes = capsys.readouterr().out.splitlines()
    assert first.startswith("top1 ")
    assert first.endswith(" over 15 images")
    assert "(ECE, 15 bins)" in second
    assert third.startswith("threshold 0.3: answers ")
    assert len(classes) == 1 + len(CLASSES)
    assert main(["eval", str(exported), "--data", str(folder), str(exported), "--tta", "flip"]) == 0
    captured = capsys.readouterr()
    assert len(captured.out.splitlines()) == 3, "a table"
    assert captured.err.count("15 images of 5 classes") == 1, "they are looked up once"
    assert main(["eval", str(exported), str(exported), "--data", str(folder), "--json"]) == 0
    assert [document["model"] for document in json.loads(capsys.readouterr().out)] == [str(exported)] * 2


def test_a_files_report(exported, folder, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    assert main(["eval", str(exported), "--data", str(folder), "--report", str(tmp_path / "out")]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"report: {tmp_path / 'out' / 'report.html'}"
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "Answers from a probability on" in page
    assert str(exported) in page
    assert "f1" in (tmp_path / "out" / "per_class.csv").read_text(encoding="utf-8").splitlines()[0].split(",")


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ([], 2, "expected a MODEL"),
        (["FILE", "-c", "MobileOne_S0"], 2, "expected one of them"),
        (["FILE", "FILE", "--report"], 2, "--report is for one MODEL"),
        (["FILE", "--check-images"], 2, "--check-images is for a run"),
        (["FILE", "-o", "Global.epochs=1"], 2, "-o is for a run or -c FILE"),
        (["-c", "MobileOne_S0", "--runtime", "openvino"], 2, "--runtime is for exported files"),
        (["FILE"], 1, "say on which images (--data)"),
        (["FILE", "--data", "FOLDER", "--report"], 1, "has no folder of its own for a report"),
        (["FILE", "--data", "nothing"], 1, "no list nothing"),
        (["none.onnx", "--data", "FOLDER"], 1, "none.onnx: No such file"),
        (["FILE", "--data", "FOLDER", "--topk", "5"], 1, "topk is 5, and there are 5 classes"),
        (["PNG", "--data", "FOLDER"], 1, "for other weights name the architecture"),
    ],
)
def test_what_is_refused(exported, folder, tmp_path, monkeypatch, capsys, arguments, code, message):
    monkeypatch.chdir(tmp_path)
    names = {"FILE": str(exported), "FOLDER": str(folder), "PNG": str(folder / CLASSES[0] / "0.png")}
    try:
        got = main(["eval", *(names.get(name, name) for name in arguments)])
    except SystemExit as error:
        got = error.code
    captured = capsys.readouterr()
    assert got == code
    assert message in captured.err.splitlines()[-1]
    assert not list(tmp_path.iterdir())


@needs_converter
def test_a_run_and_its_file_measure_the_same(tiny_run, dataset, capsys):
    """PaddleClas's engine with its transforms, and the file with this project's: equal answers, equal measures."""
    run = ppcls_ext.Run(tiny_run)
    own, report = run.evaluate(), run.export_onnx()
    assert str(own).splitlines()[0] == str(own.evaluations[0])
    assert own.top1 == pytest.approx(own.evaluations[0].value)
    assert own.images_per_second > 0
    by_run, by_file = ppcls_ext.compare([run, report.path])
    assert by_run.found.predicted.tolist() == by_file.found.predicted.tolist()
    assert by_run.found.labels.tolist() == by_file.found.labels.tolist()
    np.testing.assert_allclose(by_run.found.confidence, by_file.found.confidence, atol=2e-5)
    for name in ("top1", "f1_macro", "ece"):
        assert by_file.metrics[name] == pytest.approx(by_run.metrics[name], abs=2e-5)
        assert own.metrics[name] == by_run.metrics[name]
    assert by_file.size == report.path.stat().st_size

    listed = ppcls_ext.evaluate(report.path, dataset / "val_list.txt")
    assert listed.metrics == by_file.metrics
    flipped = ppcls_ext.compare([run, report.path], tiny_run, tta="flip")
    np.testing.assert_allclose(*(result.found.confidence for result in flipped), atol=2e-5)
    assert not np.allclose(flipped[0].found.confidence, own.found.confidence, atol=1e-6), "the views differ"

    assert main(["eval", str(tiny_run), str(report.path), "--json", "--threshold", "0.5"]) == 0
    captured = capsys.readouterr()
    documents = json.loads(captured.out)
    assert [document["metrics"]["top1"] for document in documents] == [own.top1] * 2
    assert "loss" in documents[0]["metrics"]
    assert [len(document["answered"]) for document in documents] == [1, 1]
    assert "loading Paddle and PaddleClas" in captured.err
    with pytest.raises(PpclsExtError, match="a report is of one model alone"):
        ppcls_ext.compare([run, report.path], report="out")


def test_another_runs_images(tiny_run, tiny_settings, tmp_path):
    """They are those of its list, whose paths start from its own image root."""
    run = ppcls_ext.Run(tiny_run)
    assert run.evaluate(tiny_run).metrics == run.evaluate().metrics
    (tmp_path / "other.txt").write_text("0 green\n1 red\n")
    tiny_settings["Infer"]["PostProcess"]["class_id_map_file"] = str(tmp_path / "other.txt")
    other = tmp_path / "other"
    other.mkdir()
    (other / "config.yml").write_text(yaml.safe_dump(tiny_settings))
    with pytest.raises(PpclsExtError, match="'green' is the first that has another place"):
        run.evaluate(other)


@pytest.mark.slow
@needs_converter
def test_several_labels(multi_label_run):
    run = ppcls_ext.Run(multi_label_run)
    own, report = run.evaluate(), run.export_onnx()
    file = ppcls_ext.evaluate(report.path, run)
    assert file.metrics == pytest.approx({name: own.metrics[name] for name in file.metrics}, abs=1e-6)
    assert [row["f1"] for row in file.per_class] == [row["f1"] for row in own.per_class]
    other = run.evaluate(threshold={"red": 0.9, None: 0.2})
    assert list(other.found.thresholds) == [0.9, 0.2, 0.2]
    assert str(other).splitlines()[-1].endswith("images/s")


def test_which_weights_are_taken(tiny_settings, capsys):
    """Without an evaluation in the training there is no best epoch: the moving average of the last one is taken."""
    tiny_settings["Recipe"] = {"ema": {"decay": 0.9}}
    Path("tiny.yml").write_text(yaml.safe_dump(tiny_settings))
    folder = ppcls_ext.train("tiny.yml", ["Global.eval_during_train=False"]).folder
    capsys.readouterr()
    assert main(["eval", str(folder)]) == 0
    line = capsys.readouterr().out.splitlines()[1]
    assert line == (
        f"weights: {folder / 'latest.ema.pdparams'}, the moving average (Recipe.ema) behind the last epoch: no "
        "evaluation has chosen a best one"
    )
    assert main(["eval", str(folder / "latest.pdparams")]) == 0
    assert "those behind the last epoch" in capsys.readouterr().out.splitlines()[1]
