"""Trainings that learn the answers of other trainings (`Recipe.teachers`)."""

from __future__ import annotations

import copy
import functools
import os
import shutil
from pathlib import Path

import numpy as np
import paddle
import pytest
import yaml
from paddle.nn import functional

import ppcls_ext
from ppcls_ext.commands.main import main
from ppcls_ext.config.settings import RunSettings, open_run
from ppcls_ext.config.teachers import open_teachers
from ppcls_ext.errors import PpclsExtError
from ppcls_ext.run import Run
from ppcls_ext.training.teachers import Teachers

KINDS = [
    {"name": "MobileOne_S0", "num_conv_branches": 1},
    {"name": "RepVGG_A0"},
    {"name": "FasterNet_T0", "fused": True},
]


def run(config: dict, name: str, arch: dict, *options: str, epochs: int = 1, **recipe) -> Run:
    """Trains in the working directory."""
    config = copy.deepcopy(config)
    config["Arch"] = {"class_num": 2, **arch}
    config["Recipe"] = recipe
    config["Infer"]["transforms"].insert(1, {"ResizeImage": {"size": 32}})  # a rule that can be described
    config["Global"].update(epochs=epochs, output_dir="out", run_name=name, eval_during_train=True)
    Path(f"{name}.yml").write_text(yaml.safe_dump(config))
    with paddle.utils.unique_name.guard():  # as in a process of its own
        return Run(f"{name}.yml", options).train(quiet=True)


@pytest.fixture
def train(config, tmp_path, monkeypatch):
    """Trains in a folder of the test's own."""
    monkeypatch.chdir(tmp_path)
    return functools.partial(run, config)


@pytest.fixture(scope="module")
def parts(base_config, tmp_path_factory) -> list[str]:
    """A run of each kind."""
    ppcls_ext.register()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("parts"))
        runs = [run(base_config, f"part{index}", arch, f"Global.seed={index}") for index, arch in enumerate(KINDS)]
        return [str(part.folder.absolute()) for part in runs]


def test_the_loss_is_the_divergence_from_their_mean(parts):
    runs = [open_run(part) for part in parts]
    teachers = Teachers(runs, 0.75)
    images = paddle.to_tensor(np.random.default_rng(0).normal(size=(3, 3, 32, 32)).astype("float32"))
    logits = paddle.to_tensor(np.random.default_rng(1).normal(size=(3, 2)).astype("float32"), stop_gradient=False)
    labels = paddle.to_tensor([0, 1, 1])
    own = functional.cross_entropy(logits, labels)
    losses = teachers.add_to({"loss": own, "CELoss": own}, images, logits)
    losses["loss"].backward()

    answers = []
    for run in runs:
        network = run.build_model()
        network.eval()
        answers.append(functional.softmax(network(images)).numpy().astype("float64"))
    told = functional.softmax(logits).numpy().astype("float64")
    mean = sum(answers) / 3
    apart = (mean * np.log(mean / told)).sum(axis=1).mean()
    assert float(losses["teachers"]) == pytest.approx(apart, rel=1e-4)
    assert float(losses["loss"]) == pytest.approx(0.25 * float(own) + 0.75 * apart, rel=1e-4)
    assert float(losses["CELoss"]) == float(own)
    right = np.eye(2)[labels.numpy()]
    np.testing.assert_allclose(logits.grad.numpy(), (told - 0.25 * right - 0.75 * mean) / 3, atol=1e-5)


@pytest.mark.parametrize("arch", KINDS[::2], ids=lambda arch: arch["name"])
def test_a_training_comes_close_to_them(train, parts, arch):
    """The labels say nothing here: all that is learnt is theirs."""
    files = {part: Path(part, "best_model.pdparams").read_bytes() for part in parts}
    rate = "Optimizer.lr.learning_rate=0.02"
    student = train("student", arch, rate, epochs=5, teachers={"runs": parts[:2], "share": 1.0}, ema={"decay": 0.1})
    rows = (student.folder / "metrics.csv").read_text().splitlines()
    told = [float(row.split(",")[rows[0].split(",").index("train_teachers")]) for row in rows[1:]]
    assert told[-1] < 0.7 * told[0], told
    assert files == {part: Path(part, "best_model.pdparams").read_bytes() for part in parts}
    assert "[Recipe] 2 teachers, 100% of the loss" in (student.folder / "train.log").read_text()


def test_resumed_elsewhere_it_is_the_same(train, parts, monkeypatch, tmp_path):
    named = [os.path.relpath(part) for part in parts[::2]]
    settings = {"teachers": {"runs": named}, "ema": {"decay": 0.5}, "precise_statistics": {}}
    train("whole", KINDS[0], "Global.save_interval=1", epochs=2, **settings)
    said = yaml.safe_load(Path("out/whole/config.yml").read_text())["Recipe"]["teachers"]
    assert said["runs"] == parts[::2]
    shutil.copytree("out/whole", "out/resumed")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    with paddle.utils.unique_name.guard():
        Run("../out/resumed", ["Global.checkpoints=../out/resumed/epoch_1"]).train(quiet=True)
    one, other = (paddle.load(f"../out/{name}/latest.pdparams") for name in ("whole", "resumed"))
    assert all(np.array_equal(one[name].numpy(), other[name].numpy()) for name in one)


def test_in_bfloat16(train, parts):
    student = train("student", KINDS[0], "AMP={level: O1, dtype: bfloat16}", teachers={"runs": parts})
    assert np.isfinite(student.evaluate().metrics["loss"])


def test_an_average_of_students_needs_no_teachers(train, parts):
    shutil.copytree(parts[2], "teacher")
    for name in ("one", "two"):
        train(name, KINDS[2], f"Global.seed={len(name)}", teachers={"runs": ["teacher"]})
    shutil.rmtree("teacher")
    assert main(["average", "out/one", "out/two"]) in (0, None)


def test_what_cannot_teach(train, parts):
    def fails(message: str, runs: list[str], *options: str) -> None:
        with pytest.raises(PpclsExtError, match=message):
            train("student", KINDS[0], *options, teachers={"runs": runs})
        assert not Path("out/student").exists()

    fails("^Recipe.teachers.runs.1: .*nowhere", [parts[0], "nowhere"])
    mean = "Infer.transforms.2.NormalizeImage.mean=[0, 0, 0]"
    fails(r"runs.0 is .*/out/part0, whose mean is \[0.5, 0.5, 0.5\], and this", parts[:1], mean)
    fails("whose class num is 2, and this training's is 3", parts[:1], "Arch.class_num=3")
    fails("whose channels is 3, and this training's is 1", parts[:1], "Arch.in_channels=1")
    Path("names.txt").write_text("0 green\n1 red\n")
    fails("the same classes in another order", parts[:1], "Infer.PostProcess.class_id_map_file=names.txt")
    shutil.copytree(parts[0], "out/own")
    fails("where this training writes", ["out/own"], "Global.run_name=own", "Global.overwrite=true")
    for file in Path("out/own").glob("*.pdparams"):
        file.unlink()
    fails("runs.0.*weights", ["out/own"])


def test_several_labels_an_image(config, registered):
    for loader in config["DataLoader"].values():
        loader["dataset"]["name"] = "MultiLabelDataset"
    config["Recipe"] = {"teachers": {"runs": ["output/a"]}}
    with pytest.raises(PpclsExtError, match=r"^Recipe.teachers answer with one class an image, and this is"):
        open_teachers(RunSettings(config))
