"""A multi-label run in PaddleClas's engine: export-model writes scores, whatever PaddleClas would append."""

from __future__ import annotations

import ast
import dataclasses
import logging
from pathlib import Path

import numpy as np
import paddle
import pytest
import yaml

import ppcls_ext
from ppcls_ext.commands.main import main
from ppcls_ext.config.load import read_yaml
from ppcls_ext.predict.classifier import Classifier
from ppcls_ext.predict.inference_yml import to_inference_yml
from tests.helpers import needs_converter
from tests.multi_label_run import NAMES, images_of


@pytest.fixture
def expected(multi_label_run) -> np.ndarray:
    """The sigmoids of the net's logits for the images of the run."""
    model = ppcls_ext.Run(multi_label_run).model
    model.eval()
    with paddle.no_grad():
        return paddle.nn.functional.sigmoid(model(paddle.to_tensor(images_of(multi_label_run)))).numpy()


def exported(run: Path, *overrides: str) -> Path:
    return ppcls_ext.Run(run, [f"Global.save_inference_dir={run / 'program'}", *overrides]).export_model()


@pytest.mark.parametrize(
    ("metric", "said_by"),
    [("HammingDistance", "use_multilabel"), ("ATTRMetric", "use_multilabel"), ("HammingDistance", "MultiLabelDataset")],
)
def test_a_program_of_scores(metric, said_by, multi_label_run, expected):
    """PaddleClas 2.4.2 appends a softmax unless a metric is ATTRMetric, even to `use_multilabel: true`."""
    config = read_yaml(multi_label_run / "config.yml")
    config["Metric"] = {"Eval": [{metric: None}]}
    if said_by == "use_multilabel":
        config["DataLoader"] = {}
    else:
        del config["Global"]["use_multilabel"]
    (multi_label_run / "config.yml").write_text(yaml.safe_dump(config), encoding="utf-8")
    program = exported(multi_label_run)
    classifier = Classifier(program, runtime="paddle")
    assert classifier.metadata == ppcls_ext.Run(multi_label_run).metadata
    assert (classifier.metadata.task, classifier.metadata.class_names) == ("multi-label", NAMES)
    np.testing.assert_allclose(classifier.scores(images_of(multi_label_run)), expected, atol=1e-5)


@needs_converter
def test_verify_compares_the_program(multi_label_run, capsys):
    program, file = exported(multi_label_run), multi_label_run / "m.onnx"
    ppcls_ext.Run(multi_label_run).export_onnx(file)
    capsys.readouterr()
    assert main(["verify", str(file), "png", "--program", str(program)]) == 0
    (line,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith("paddle"))
    assert line.split()[-3:-1] == ["100.0%", "100.0%"]
    metadata = dataclasses.replace(ppcls_ext.Run(multi_label_run).metadata, task="single-label")
    (program / "inference.yml").write_text(to_inference_yml(metadata), encoding="utf-8")
    assert main(["verify", str(file), "png", "--program", str(program)]) == 1
    assert "inference.yml is missing, was changed or is of another export" in capsys.readouterr().out
    (program / "inference.sha256").unlink()  # as of an older export
    assert main(["verify", str(file), "png", "--program", str(program)]) == 1
    captured = capsys.readouterr()
    assert f"{program} is single-label, the file multi-label: export both of one run" in captured.out


def test_what_paddlex_does_otherwise_is_said(multi_label_run, capsys, log):
    program = exported(multi_label_run, "Infer.PostProcess.threshold=[0.3,0.5,0.7]")
    said = yaml.safe_load((program / "inference.yml").read_text(encoding="utf-8"))
    assert said["Global"]["model_name"] == "FasterNet-T0_ML"
    assert said["PostProcess"] == {"MultiLabelThreshOutput": {"threshold": [0.3, 0.5, 0.7], "label_list": list(NAMES)}}
    assert "leaves CropImage out" in log.text
    assert "takes a list of thresholds for one of images" in log.text
    assert Classifier(program, runtime="paddle").metadata.thresholds == (0.3, 0.5, 0.7)


def test_an_earlier_inference_yml_does_not_stay_beside_another_program(multi_label_run, log):
    program = multi_label_run / "program"
    program.mkdir()
    (program / "inference.yml").write_text("of an earlier export")
    exported(multi_label_run, "Infer.transforms.0.DecodeImage.to_rgb=False")
    assert "no inference.yml: PaddleX has no images decoded by cv2 in BGR" in log.text
    assert not (program / "inference.yml").exists()


@pytest.mark.parametrize(
    "post_process",
    [
        {"name": "MultiLabelTopk", "topk": 1},  # PaddleClas 2.4 loses the names, and takes topk for nothing
        {"name": "Topk", "topk": 1},  # PaddleClas applies a softmax
        {"name": "MultiLabelThreshOutput", "threshold": 0.5},  # which 2.4 has not
        {"name": "MultiLabelThreshOutput", "threshold": [0.7, 0.8, 0.6]},
    ],
    ids=lambda value: "-".join(map(str, value.values())),
)
def test_infer_prints_names_and_scores(post_process, multi_label_run, expected, capsys):
    config = read_yaml(multi_label_run / "config.yml")
    config["Infer"]["PostProcess"] = {**post_process, "class_id_map_file": str(Path("names.txt").resolve())}
    (multi_label_run / "config.yml").write_text(yaml.safe_dump(config), encoding="utf-8")
    run = ppcls_ext.Run(multi_label_run)
    results = inferred(multi_label_run, capsys)
    assert [Path(result["file_name"]).name for result in results] == [f"{index:02}.png" for index in range(24)]
    wanted = run.predict([result["file_name"] for result in results])
    for result, other, scores in zip(results, wanted, expected):
        assert list(result) == ["class_ids", "scores", "file_name", "label_names"]
        assert result["class_ids"] == other["class_ids"]
        assert sorted(result["class_ids"]) == np.flatnonzero(scores >= post_process.get("threshold", 0.5)).tolist()
        assert result["scores"] == pytest.approx(scores[result["class_ids"]].tolist(), abs=1e-5)
        assert result["label_names"] == [NAMES[index] for index in result["class_ids"]]


def test_infer_with_a_threshold(multi_label_run, expected, capsys, tmp_path):
    options = ["--threshold", "0.7", "--threshold", "green=0.99", "--out", str(tmp_path / "r.csv")]
    options += ["--save-image", str(tmp_path / "drawn")]
    results = inferred(multi_label_run, capsys, *options)
    for result, scores in zip(results, expected):
        assert sorted(result["class_ids"]) == np.flatnonzero(scores >= [0.7, 0.99, 0.7]).tolist()
    rows = (tmp_path / "r.csv").read_text(encoding="utf-8").splitlines()
    empty = sum(not result["class_ids"] for result in results)
    assert empty
    assert sum(row.endswith(",,,,") for row in rows) == empty
    assert len(list((tmp_path / "drawn").glob("*.png"))) == 25
    assert main(["infer", str(multi_label_run), "--threshold", "blue=0.2"]) == 1
    assert capsys.readouterr().err.splitlines()[-1] == (
        "error: threshold is for 'blue': expected a class's number or name: red, green, night sky"
    )


def test_infer_of_a_single_label_run_with_a_threshold(tiny_run, capsys):
    everything = inferred(tiny_run, capsys)
    best = sorted(result["scores"][0] for result in everything)
    results = inferred(tiny_run, capsys, "--threshold", str(best[12]))
    for result, full in zip(results, everything):
        shown = [index for index, score in zip(full["class_ids"], full["scores"]) if score >= best[12]]
        assert abs(len(result["class_ids"]) - len(shown)) <= 1  # printed scores are rounded
        assert result["class_ids"] == full["class_ids"][: len(result["class_ids"])]
    assert {len(result["class_ids"]) for result in results} == {0, 1}


@pytest.mark.parametrize(
    ("post_process", "options", "words"),
    [
        (
            {"name": "ThreshOutput", "threshold": 0.5},
            [],
            "ThreshOutput, which gives each image one class, and the netw",
        ),
        (
            {"name": "VehicleAttribute"},
            ["--threshold", "0.5"],
            "Infer.PostProcess.name is VehicleAttribute: expected Mu",
        ),
        (
            {"name": "MultiLabelTopk", "threshold": 2},
            [],
            "Infer.PostProcess.threshold is 2: expected a number from 0 to",
        ),
        ({"name": "MultiLabelTopk", "threshold": [0.5]}, [], "expected a number from 0 to 1, or 3, one for each class"),
    ],
)
def test_infer_refuses_what_would_be_wrong(post_process, options, words, multi_label_run, capsys):
    config = read_yaml(multi_label_run / "config.yml")
    config["Infer"]["PostProcess"] = post_process
    (multi_label_run / "config.yml").write_text(yaml.safe_dump(config), encoding="utf-8")
    assert main(["infer", str(multi_label_run), *options]) == 1
    captured = capsys.readouterr()
    assert words in captured.err.splitlines()[-1]
    assert "class_ids" not in captured.out


def inferred(run: Path, capsys, *options: str) -> list[dict]:
    """PaddleClas's lists that `infer` prints, read."""
    assert main(["infer", str(run), "--paddleclas", *options]) == 0
    printed = capsys.readouterr().out
    lists = [ast.literal_eval(line) for line in printed.splitlines() if line.startswith("[{")]
    return [result for batch in lists for result in batch]


@pytest.fixture
def log(caplog):
    logging.getLogger("ppcls_ext").addHandler(caplog.handler)
    yield caplog
    logging.getLogger("ppcls_ext").removeHandler(caplog.handler)
