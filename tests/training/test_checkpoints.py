"""A training that was interrupted and resumed ends with the same bits as one that was not."""

from __future__ import annotations

import copy
import csv
import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import paddle
import pytest
import yaml

from ppcls_ext.errors import PpclsExtError
from ppcls_ext.training import loop
from ppcls_ext.training.evaluation import Evaluation
from ppcls_ext.weights.checkpoint_sets import read_set
from ppcls_ext.weights.paddle_file import read_paddle_file
from tests.helpers import build_engine, prepared, wait_for

ROOT = Path(__file__).resolve().parents[2]
RECIPE = {
    "ema": {"decay": 0.9},
    "weight_decay": {"start": 1e-2, "end": 1e-3},
    "precise_statistics": {},
}


@pytest.fixture
def train(config, tmp_path, monkeypatch, registered):
    """Trains 2 epochs with everything that is random, in `tmp_path`/FOLDER, as a process of its own would."""
    monkeypatch.chdir(tmp_path)
    config["Global"].update(epochs=2)
    config["DataLoader"]["Train"]["dataset"]["transform_ops"][1:1] = [
        {"RandCropImage": {"size": 32, "scale": [0.3, 1.0]}},
        {"RandFlipImage": {"flip_code": 1}},
    ]

    def run(folder: str, *, stop: tuple[int, int] | None = None, **settings) -> Path:
        config["Global"].update(output_dir=folder, checkpoints=settings.pop("checkpoints", None))
        config["Global"].update(settings)

        # a process of its own has other random numbers in store, and Paddle counts parameters from 0
        for seed in (random.seed, np.random.seed, paddle.seed):
            seed(int.from_bytes(os.urandom(2), "little"))
        with paddle.utils.unique_name.guard():
            engine = build_engine(config, "train")
            if stop:
                stop_at(engine, *stop)
                with pytest.raises(KeyboardInterrupt):
                    engine.train()
            else:
                engine.train()
        return Path(folder, config["Arch"]["name"])

    return run


def stop_at(engine, epoch: int, update: int) -> None:
    """Makes `engine` stop before the update number `update`, counted from 1, of an epoch."""
    engine.left = (epoch - 1) * len(engine.train_dataloader) + update
    step = engine.optimizer[-1].step

    def step_or_stop(*args, **kwargs):
        engine.left -= 1
        if engine.left == 0:
            raise KeyboardInterrupt
        return step(*args, **kwargs)

    engine.optimizer[-1].step = step_or_stop


def assert_same_set(a: Path, b: Path) -> None:
    first, second = read_set(a), read_set(b)
    assert list(first.files) == list(second.files)
    assert first.state == second.state
    for name, path in first.files.items():
        assert_same(read_paddle_file(path), read_paddle_file(second.files[name]), name)


def assert_same(a, b, where: str) -> None:
    """To the last bit; names that Paddle counts as it makes tensors stand beside them and do not matter."""
    assert type(a) is type(b), where
    if isinstance(a, dict):
        assert list(a) == list(b), where
        for name in a:
            if name != "StructuredToParameterName@@":
                assert_same(a[name], b[name], f"{where} {name}")
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b), where
        for index, (left, right) in enumerate(zip(a, b)):
            assert_same(left, right, f"{where} {index}")
    elif isinstance(a, np.ndarray):
        assert a.tobytes() == b.tobytes(), where
    else:
        assert a == b, where


@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize("arch", ["MobileOne_S0", "RepVGG_A0", "FasterNet_T0", "FasterNet_T1"])
def test_resumed_training_is_bit_identical(train, config, monkeypatch, arch, mixed):
    """FasterNet_T1 has stochastic depth: Paddle's random numbers; crops and flips are NumPy's and Python's."""
    config["Arch"]["name"] = arch
    if mixed:
        monkeypatch.setattr("ppcls_ext.onednn.bfloat16.lacking", lambda: None)
        config["AMP"] = {"use_amp": True, "dtype": "bfloat16"}
    config["Recipe"] = RECIPE
    whole = train("whole")
    parts = train("parts", stop=(2, 2))
    assert read_set(parts / "latest").state["epoch"] == 1
    train("parts", checkpoints="latest")
    assert_same_set(whole / "latest", parts / "latest")
    assert_same_set(whole / "best_model", parts / "best_model")
    assert (whole / "latest.pdparams").read_bytes() != (whole / "epoch_1.pdparams").read_bytes()


def test_one_epoch_of_warm_up_can_be_continued(train, config):
    """PaddleClas builds another schedule where the warm-up is the whole training."""
    config["Arch"]["name"] = "FasterNet_T0"
    config["Optimizer"]["lr"] = {"name": "Cosine", "learning_rate": 0.01, "warmup_epoch": 1}
    short, whole = train("parts", epochs=1), train("whole", epochs=3)
    train("parts", epochs=3, checkpoints="latest")
    rates = [
        [row["learning_rate"] for row in csv.DictReader((folder / "metrics.csv").open(encoding="utf-8"))]
        for folder in (short, whole)
    ]
    assert rates[0] == rates[1]


def test_without_a_seed_the_seed_is_resumed(train, config):
    config["Arch"]["name"] = "FasterNet_T1"
    del config["Global"]["seed"]
    folder = train("whole")
    first = read_set(folder / "epoch_1")
    train("parts", checkpoints=str(folder / "epoch_1"))
    assert_same_set(folder / "latest", Path("parts", "FasterNet_T1", "latest"))
    train("other", epochs=1)
    assert read_set(Path("other/FasterNet_T1/latest")).state["seed"] != first.state["seed"]


def test_epochs_differ_in_order_and_augmentation(train, config):
    """What is repeated when resuming must not be repeated from epoch to epoch."""
    from ppcls_ext.training import engine as module

    config["Arch"]["name"] = "FasterNet_T0"
    seen = []
    attach = module.Recipe.attach

    def watch(self, engine):
        attach(self, engine)
        engine.network.register_forward_pre_hook(lambda layer, inputs: seen.append(inputs[0].numpy().sum()))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module.Recipe, "attach", watch)
        train("whole", eval_during_train=False)
    assert len(seen) == 6
    assert len(set(seen)) == 6


def evaluate_to(monkeypatch, metrics: dict[int, float]) -> None:
    """Makes the evaluations of a training come to given metrics, by epoch."""
    monkeypatch.setattr(
        loop,
        "evaluate_epoch",
        lambda engine, number: Evaluation("top1", metrics[number], {}, 1),
    )


def test_best_metric_is_resumed(train, config, monkeypatch):
    """An epoch worse than the best one before the interruption does not become the best model."""
    config["Arch"]["name"] = "FasterNet_T0"
    evaluate_to(monkeypatch, {1: 0.9, 2: 0.2, 3: 0.5})
    folder = train("output", epochs=2)
    before = (folder / "best_model.pdparams").read_bytes()
    train("output", epochs=3, checkpoints="latest")
    assert (folder / "best_model.pdparams").read_bytes() == before
    assert read_set(folder / "best_model").state["epoch"] == 1
    assert read_set(folder / "latest").state["best_metric"] == 0.9


def test_damaged_checkpoints_are_named_and_skipped(train, config, capfd, caplog):
    config["Arch"]["name"] = "FasterNet_T0"
    folder = train("output", eval_during_train=False, epochs=2)
    good = (folder / "latest.pdparams").read_bytes()
    (folder / "latest.pdopt").write_bytes((folder / "latest.pdopt").read_bytes()[:-5])
    (folder / "epoch_2.pdparams").write_bytes(good[:-9] + b"x" + good[-8:])
    train("output", checkpoints="latest")
    assert "latest.pdopt is damaged: it is " in caplog.text
    assert "epoch_2.pdparams is damaged: it is changed" in caplog.text
    assert (folder / "latest.pdparams").read_bytes() == good, "from epoch_1, the second epoch once more"
    for name in ("latest", "epoch_1", "epoch_2"):
        (folder / f"{name}.pdstates").unlink()
    with pytest.raises(PpclsExtError, match="holds no complete checkpoint to resume from"):
        train("output", checkpoints="latest")
    with pytest.raises(PpclsExtError, match="holds no complete checkpoint to resume from: leave it out"):
        train("elsewhere", checkpoints="latest")


def test_damaged_weights_are_refused_elsewhere_too(train, config):
    config["Arch"]["name"] = "FasterNet_T0"
    folder = train("output", eval_during_train=False, epochs=1)
    data = (folder / "latest.pdparams").read_bytes()
    (folder / "latest.pdparams").write_bytes(data[:-1000] + bytes(1) + data[-999:])
    config["Global"].update(pretrained_model=str(folder / "latest"), checkpoints=None)
    with pytest.raises(PpclsExtError, match=r"latest\.pdparams is damaged: it is changed"):
        prepared(copy.deepcopy(config), "eval")


class Malicious:
    def __reduce__(self):
        return os.mkdir, ("executed",)


@pytest.mark.parametrize("suffix", [".pdparams", ".pdopt", ".pdstates"])
def test_nothing_in_a_checkpoint_is_executed(train, config, suffix):
    import pickle

    config["Arch"]["name"] = "FasterNet_T0"
    folder = train("output", eval_during_train=False, epochs=1)
    (folder / "latest.json").unlink()  # as one from plain PaddleClas
    Path(folder, f"latest{suffix}").write_bytes(pickle.dumps({"epoch": 1, "x": Malicious()}, protocol=2))
    with pytest.raises(PpclsExtError, match=rf"latest{suffix}: .*mkdir.*refused"):
        train("output", checkpoints=str(folder / "latest"))
    assert not Path("executed").exists()


def test_checkpoints_of_plain_paddleclas_can_be_resumed(train, config):
    config["Arch"]["name"] = "FasterNet_T0"
    whole = train("whole", epochs=2)
    for manifest in whole.glob("*.json"):
        manifest.unlink()
    parts = train("parts", checkpoints=str(whole / "epoch_1"))
    assert (parts / "latest.pdparams").read_bytes() == (whole / "latest.pdparams").read_bytes()


def test_another_optimizer_is_refused(train, config):
    config["Arch"]["name"] = "FasterNet_T0"
    folder = train("whole", epochs=1)
    config["Arch"]["name"] = "FasterNet_T1"
    with pytest.raises(PpclsExtError, match=r"latest\.pdparams does not fit: .* of another shape"):
        train("parts", epochs=2, checkpoints=str(folder / "latest"))


def test_averaged_weights_are_not_resumed_from(train, config):
    config["Arch"]["name"] = "FasterNet_T0"
    config["Recipe"] = {"ema": {"decay": 0.9}}
    folder = train("whole", epochs=1)
    config["Recipe"] = None
    with pytest.raises(PpclsExtError, match="holds averaged weights: resume from latest"):
        train("parts", epochs=2, checkpoints=str(folder / "best_model"))


@pytest.mark.slow
def test_full_disk_while_training(config_file, tmp_path, run_tool):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(disk)]
    if os.getuid() != 0 or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("needs to mount a tmpfs: run as root where mounting is allowed")
    try:
        options = [f"Global.output_dir={disk}", "Global.epochs=2", "Arch.name=FasterNet_T0", "Global.save_interval=9"]
        options += ["Global.eval_during_train=false"]
        first = run_tool("train", "-c", config_file, "-o", *options, "Global.epochs=1", cwd=tmp_path)
        assert first.returncode == 0, first.stderr
        folder = disk / "FasterNet_T0"
        assert read_set(folder / "latest").state["epoch"] == 1
        stat = os.statvfs(disk)
        (disk / "filler").write_bytes(bytes(stat.f_bavail * stat.f_bsize - (1 << 20)))
        second = run_tool("train", "-c", config_file, "-o", *options, "Global.checkpoints=latest", cwd=tmp_path)
        assert second.returncode == 1
        assert (
            "No space left on device; make room, then resume with the same command and --resume"
            in second.stderr.splitlines()[-1]
        )
        assert read_set(folder / "latest").state["epoch"] == 1
        assert not list(folder.glob("*.new"))
        (disk / "filler").unlink()
        third = run_tool("train", "-c", config_file, "-o", *options, "Global.checkpoints=latest", cwd=tmp_path)
        assert third.returncode == 0, third.stderr
        assert read_set(folder / "latest").state["epoch"] == 2
    finally:
        subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.slow
@pytest.mark.parametrize("arch", ["MobileOne_S0", "RepVGG_A0", "FasterNet_T0", "FasterNet_T1"])
def test_killed_process_resumes(base_config, tmp_path, run_tool, arch):
    """SIGKILL in the middle of the second epoch, with the real tool."""
    settings = {**copy.deepcopy(base_config), "Recipe": RECIPE}
    settings["Arch"]["name"] = arch
    settings["Global"].update(epochs=2, eval_during_train=False)
    path = tmp_path / "tiny.yml"
    path.write_text(yaml.safe_dump(settings))
    whole = run_tool("train", "-c", path, "-o", "Global.output_dir=whole", cwd=tmp_path)
    assert whole.returncode == 0, whole.stderr
    command = [sys.executable, str(ROOT / "tools" / "train.py"), "-c", str(path), "-o", "Global.output_dir=parts"]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_for("[Epoch 2/2][Iter: 0/3]", tmp_path / "parts" / arch / "train.log", process)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    resumed = run_tool("train", "-c", path, "-o", "Global.output_dir=parts", "Global.checkpoints=latest", cwd=tmp_path)
    assert resumed.returncode == 0, resumed.stderr
    assert_same_set(tmp_path / "whole" / arch / "latest", tmp_path / "parts" / arch / "latest")
    manifest = json.loads((tmp_path / "parts" / arch / "latest.json").read_text())
    assert manifest["set"]["state"]["epoch"] == 2


def test_resuming_a_finished_training_says_so(train, config, capsys):
    config["Arch"]["name"] = "FasterNet_T0"
    folder = train("output", epochs=1)
    before = {path.name: path.read_bytes() for path in folder.glob("*.pd*")}
    capsys.readouterr()
    train("output", epochs=1, checkpoints="latest")
    assert {path.name: path.read_bytes() for path in folder.glob("*.pd*")} == before
    printed = capsys.readouterr().out
    assert f"{folder} is finished: 1 of 1 epochs are trained; to train longer: -o Global.epochs=2" in printed
    assert f"best weights: {folder / 'best_model.pdparams'}" in printed


def test_the_best_weights_are_named_though_an_earlier_run_saved_them(train, config, monkeypatch, capsys):
    config["Arch"]["name"] = "FasterNet_T0"
    evaluate_to(monkeypatch, {1: 0.9, 2: 0.2})
    folder = train("output", epochs=1)
    capsys.readouterr()
    train("output", epochs=2, checkpoints="latest")
    assert capsys.readouterr().out.splitlines()[-1] == f"best weights: {folder / 'best_model.pdparams'}"
    train("other", epochs=3, checkpoints=str(folder / "latest"), eval_during_train=False)
    assert "best weights" not in capsys.readouterr().out.splitlines()[-1], "another training's folder"


@pytest.mark.parametrize(
    ("before", "after"), [("Momentum", "AdamW"), ("AdamW", "Momentum"), ("Momentum", "SGD"), ("SGD", "Momentum")]
)
def test_an_optimizer_of_another_kind_is_refused(train, config, before, after):
    """Paddle would fail in the first step, or begin from zero without a word."""
    config["Arch"]["name"] = "FasterNet_T0"
    schedule = {"name": "Cosine", "learning_rate": 0.01}
    extra = {"Momentum": {"momentum": 0.9}, "AdamW": {"weight_decay": 0.01}, "SGD": {}}
    config["Optimizer"] = {"name": before, **extra[before], "lr": schedule}
    train("output", epochs=1, eval_during_train=False)
    config["Optimizer"] = {"name": after, **extra[after], "lr": schedule}
    with pytest.raises(PpclsExtError, match=rf"latest\.pdopt is of another optimizer: it holds .*, and {after} keeps"):
        train("output", epochs=2, checkpoints="latest")
