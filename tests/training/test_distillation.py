"""A distillation: its student evaluates, predicts and is exported by the run's folder; networks that do not fit."""

from __future__ import annotations

import json
from pathlib import Path

import paddle
import pytest
import yaml

import ppcls_ext
from ppcls_ext.commands.main import main
from ppcls_ext.config.settings import RunSettings
from ppcls_ext.errors import PpclsExtError
from tests.helpers import needs_converter

IMAGE = "png/00.png"


@pytest.fixture
def settings(tiny_settings) -> dict:
    """A frozen teacher of one family, and a student of another."""
    networks = {"Teacher": "RepVGG_A0", "Student": "FasterNet_T0"}
    tiny_settings["Arch"] = {
        "name": "DistillationModel",
        "class_num": 2,
        "freeze_params_list": [True, False],
        "infer_model_name": "Student",
        "models": [{name: {"name": arch, "class_num": 2, "pretrained": False}} for name, arch in networks.items()],
    }
    tiny_settings["Loss"]["Train"] = [
        {"DistillationGTCELoss": {"weight": 1.0, "model_names": ["Student"]}},
        {"DistillationDMLLoss": {"weight": 1.0, "model_name_pairs": [["Student", "Teacher"]]}},
    ]
    tiny_settings["Metric"]["Train"] = [{"DistillationTopkAcc": {"model_key": "Student", "topk": [1, 2]}}]
    return tiny_settings


def train(settings: dict, *options: str) -> int:
    Path("distil.yml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    return main(["train", "-c", "distil.yml", *options])


@needs_converter
@pytest.mark.slow
def test_what_is_printed_at_the_end_works(settings, capsys):
    """And so does predict; all of them run the student."""
    assert train(settings) == 0
    shown = capsys.readouterr().out
    following = [
        line.split()[1:] for line in shown.partition("next:\n")[2].splitlines() if line.startswith("  ppcls-ext")
    ]
    assert [words[0] for words in following] == ["eval", "predict", "export-onnx"]
    run = following[0][1]
    for words in following:
        assert main([IMAGE if word == "IMAGE…" else word for word in words]) == 0
    assert main(["export-model", run]) == 0
    assert {"inference.json", "inference.yml"} <= {path.name for path in Path(run, "inference").iterdir()}
    capsys.readouterr()
    answers = []
    for model in (run, f"{run}/FasterNet_T0.onnx", f"{run}/inference"):
        assert main(["predict", model, IMAGE, "--json"]) == 0
        answers += json.loads(capsys.readouterr().out)
    student = ppcls_ext.build("FasterNet_T0", class_num=2)
    own = {
        name.removeprefix("Student."): value
        for name, value in paddle.load(f"{run}/best_model.pdparams").items()
        if name.startswith("Student.")
    }
    assert set(own) == set(student.state_dict())
    ppcls_ext.load_weights(student, own)
    metadata = ppcls_ext.Run(run).metadata
    assert metadata.architecture == "FasterNet_T0"
    for answer in answers:
        assert answer["class_ids"] == answers[0]["class_ids"]
        assert answer["scores"] == pytest.approx(answers[0]["scores"], abs=2e-5)
    # PaddleClas's own inference, with either post-processing
    for name in ("Topk", "DistillationPostProcess"):
        changes = ["-o", f"Infer.PostProcess.name={name}"]
        assert main(["infer", run, IMAGE, "--paddleclas", *changes]) == 0
        assert f"'class_ids': {answers[0]['class_ids']}" in capsys.readouterr().out


def test_a_teacher_of_other_classes_is_refused_before_the_first_step(settings, capsys):
    settings["Arch"]["models"][0]["Teacher"]["class_num"] = 5
    assert train(settings) == 1
    assert capsys.readouterr().err.splitlines()[-1] == (
        "error: Loss.Train.1.DistillationDMLLoss compares networks with different numbers of classes: Student "
        "(FasterNet_T0) tells 2 and Teacher (RepVGG_A0) tells 5: give both the same class_num in Arch.models"
    )
    assert not Path("output/DistillationModel/latest.pdparams").exists()


def test_a_student_of_other_classes_than_the_images_is_refused(settings, capsys):
    for model in settings["Arch"]["models"]:
        for fields in model.values():
            del fields["class_num"]  # 1000
    assert train(settings) == 1
    assert (
        "the network gives [1000] numbers per image, and classification needs Arch.class_num, 2"
        in (capsys.readouterr().err.splitlines()[-1])
    )


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        (
            "infer_model_name",
            None,
            "infer_model_name is None, which says whose network is exported: expected one of Te",
        ),
        ("models", None, "Arch.models is None: expected a list of networks"),
        ("models", ["Student"], "Arch.models holds 'Student': expected the name of a network and its fields"),
    ],
)
def test_whose_network_is_exported(settings, field, value, said):
    settings["Arch"][field] = value
    with pytest.raises(PpclsExtError, match=said):
        RunSettings(settings).deployed.build_model()
