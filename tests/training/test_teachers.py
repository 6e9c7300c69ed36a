"""Trainings that learn the answers of other trainings (`Recipe.teachers`)."""

from __future__ import annotations

import os
import shutil

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest
import yaml

import ppcls_ext
from ppcls_ext.commands.main import main
from ppcls_ext.config.settings import open_run
from ppcls_ext.errors import PpclsExtError
from ppcls_ext.run import Run
from ppcls_ext.training.teachers import Teachers

KINDS = [
    {"name": "MobileOne_S0", "num_conv_branches": 1},
    {"name": "RepVGG_A0"},
    {"name": "FasterNet_T0", "fused": True},
]


@pytest.fixture
def train(config, tmp_path, monkeypatch, fresh_process):
    """Trains in a folder of its own, and gives the run."""
    monkeypatch.chdir(tmp_path)
    ppcls_ext.register()
    config["Infer"]["transforms"].insert(1, {"ResizeImage": {"size": 32}})  # a rule that can be described

    def run(name: str, arch: dict, *options: str, epochs: int = 1, **recipe):
        config["Arch"] = {"class_num": 2, **arch}
        config["Recipe"] = recipe
        config["Global"].update(epochs=epochs, output_dir="out", run_name=name, eval_during_train=True)
        (tmp_path / f"{name}.yml").write_text(yaml.safe_dump(config))
        with fresh_process():
            return Run(f"{name}.yml", options).train(quiet=True)

    return run


@pytest.fixture
def parts(train) -> list[str]:
    return [str(train(f"part{index}", arch, f"Global.seed={index}").folder) for index, arch in enumerate(KINDS)]


def test_the_loss_is_the_divergence_from_their_mean(parts):
    runs = [open_run(part) for part in parts]
    teachers = Teachers(runs, 0.75)
    images = paddle.to_tensor(np.random.default_rng(0).normal(size=(3, 3, 32, 32)).astype("float32"))
    logits = paddle.to_tensor(np.random.default_rng(1).normal(size=(3, 2)).astype("float32"), stop_gradient=False)
    labels = paddle.to_tensor([0, 1, 1])
    own = F.cross_entropy(logits, labels)
    losses = teachers.add_to({"loss": own, "CELoss": own}, images, logits)
    losses["loss"].backward()

    answers = []
    for run in runs:
        network = run.build_model()
        network.eval()
        answers.append(F.softmax(network(images)).numpy().astype("float64"))
    told = F.softmax(logits).numpy().astype("float64")
    mean = sum(answers) / 3
    apart = (mean * np.log(mean / told)).sum(axis=1).mean()
    assert float(losses["teachers"]) == pytest.approx(apart, rel=1e-4)
    assert float(losses["loss"]) == pytest.approx(0.25 * float(own) + 0.75 * apart, rel=1e-4)
    assert float(losses["CELoss"]) == float(own)
    right = np.eye(2)[labels.numpy()]
    np.testing.assert_allclose(logits.grad.numpy(), (told - 0.25 * right - 0.75 * mean) / 3, atol=1e-5)


@pytest.mark.parametrize("arch", KINDS, ids=lambda arch: arch["name"])
def test_a_training_comes_close_to_them(train, parts, arch, tmp_path):
    """The labels say nothing here: all that is learnt is theirs."""
    files = {part: (tmp_path / part / "best_model.pdparams").read_bytes() for part in parts}
    rate = "Optimizer.lr.learning_rate=0.02"
    student = train("student", arch, rate, epochs=5, teachers={"runs": parts[:2], "share": 1.0}, ema={"decay": 0.1})
    rows = (student.folder / "metrics.csv").read_text().splitlines()
    told = [float(row.split(",")[rows[0].split(",").index("train_teachers")]) for row in rows[1:]]
    assert told[-1] < 0.7 * told[0], told
    assert files == {part: (tmp_path / part / "best_model.pdparams").read_bytes() for part in parts}
    assert "[Recipe] 2 teachers, 100% of the loss" in (student.folder / "train.log").read_text()


def test_resumed_elsewhere_it_is_the_same(train, parts, fresh_process, monkeypatch, tmp_path):
    wanted = {"teachers": {"runs": parts}, "ema": {"decay": 0.5}, "precise_statistics": {}}
    train("whole", KINDS[0], "Global.save_interval=1", epochs=2, **wanted)
    said = yaml.safe_load((tmp_path / "out/whole/config.yml").read_text())["Recipe"]["teachers"]
    assert said["runs"] == [str(tmp_path / part) for part in parts]
    shutil.copytree("out/whole", "out/resumed")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    with fresh_process():
        Run("../out/resumed", ["Global.checkpoints=../out/resumed/epoch_1"]).train(quiet=True)
    one, other = (paddle.load(str(tmp_path / name / "latest.pdparams")) for name in ("out/whole", "out/resumed"))
    assert all(np.array_equal(one[name].numpy(), other[name].numpy()) for name in one)


def test_in_bfloat16(train, parts):
    student = train("student", KINDS[0], "AMP={level: O1, dtype: bfloat16}", teachers={"runs": parts})
    assert np.isfinite(student.evaluate().metrics["loss"])


def test_an_average_of_students_needs_no_teachers(train, parts, capsys):
    for name in ("one", "two"):
        train(name, KINDS[2], f"Global.seed={len(name)}", teachers={"runs": parts[:1]})
    os.rename(parts[0], "away")
    assert main(["average", "out/one", "out/two"]) in (0, None)


def test_what_cannot_teach(train, parts, tmp_path):
    def fails(message: str, runs: list[str], *options: str) -> None:
        with pytest.raises(PpclsExtError, match=message):
            train("student", KINDS[0], *options, teachers={"runs": runs})
        assert not (tmp_path / "out/student").exists()

    fails("^Recipe.teachers.runs.1: .*nowhere", [parts[0], "nowhere"])
    mean = "Infer.transforms.2.NormalizeImage.mean=[0, 0, 0]"
    fails("runs.0 is out/part0, whose mean is", parts[:1], mean)
    fails("whose class num is 2, and this training's is 3", parts[:1], "Arch.class_num=3")
    fails("whose channels is 3, and this training's is 1", parts[:1], "Arch.in_channels=1")
    fails("where this training writes", [os.path.abspath(parts[0])], "Global.run_name=part0", "Global.overwrite=true")
    for file in (tmp_path / parts[1]).glob("*.pdparams"):
        file.unlink()
    fails("runs.0.*weights", [parts[1]])
