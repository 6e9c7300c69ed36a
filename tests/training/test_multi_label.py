"""A multi-label run in PaddleClas's engine: export-model writes scores, whatever PaddleClas would append."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import paddle
import pytest
import yaml

import ppcls_ext
from ppcls_ext.config.load import read_yaml
from ppcls_ext.predict.classifier import Classifier
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


@pytest.fixture
def log(caplog):
    logging.getLogger("ppcls_ext").addHandler(caplog.handler)
    yield caplog
    logging.getLogger("ppcls_ext").removeHandler(caplog.handler)
