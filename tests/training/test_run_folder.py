"""A run's folder changes only by a training that succeeds: its lists, settings and weights are one set."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import paddle
import pytest
import yaml
from PIL import Image

import ppcls_ext
from ppcls_ext.errors import PpclsExtError
from ppcls_ext.training.checkpoints import Checkpoints
from ppcls_ext.training.engine import Engine
from ppcls_ext.weights import checkpoint_sets
from ppcls_ext.weights.checkpoint_sets import read_set
from tests.helpers import ROOT, needs_converter

ARCH = "FasterNet_T0"
HOLDER = "import sys; from pathlib import Path; from ppcls_ext.weights.folder_lock import hold; hold(Path(sys.argv[1]))"


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    """Two folders of class folders: red and green in `photos`, red, green and blue in `others`."""
    root = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for place, classes in (("photos", ("red", "green")), ("others", ("red", "green", "blue"))):
        for label, name in enumerate(classes):
            for index in range(8):
                pixels = rng.integers(0, 80, (32, 32, 3))
                pixels[..., label] += 120
                path = root / place / name / f"{index}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels.astype("uint8")).save(path)
    return root


@pytest.fixture
def train(tiny_settings, photos):
    """Trains for an epoch in output/ARCH, by default on `photos`/photos."""
    Path("tiny.yml").write_text(yaml.safe_dump(tiny_settings), encoding="utf-8")

    def run(*overrides, source="tiny.yml", data="photos", **options):
        with paddle.utils.unique_name.guard():  # as in a process of its own
            return ppcls_ext.train(source, overrides, data=data and photos / data, **options)

    return run


@pytest.fixture
def folder(train, tmp_path) -> Path:
    """Of a run that is trained."""
    assert train().folder == tmp_path / "output" / ARCH
    return tmp_path / "output" / ARCH


def content(folder: Path) -> dict[str, bytes]:
    """All files but the log."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.suffix != ".log"
    }


def fail(*arguments, **options):
    raise PpclsExtError("it fails")


def test_a_start_that_is_refused_changes_nothing(folder, train, photos, monkeypatch):
    before, accuracy = content(folder), ppcls_ext.Run(folder).evaluate().metrics
    with pytest.raises(PpclsExtError, match="unknown arguments"):
        train("Arch.no_such_argument=1", data="others")
    assert not folder.with_name(f"{ARCH}-2").exists()
    with pytest.raises(PpclsExtError, match="unknown arguments"):
        train("Arch.no_such_argument=1", split_seed=7, overwrite=True)
    with pytest.raises(PpclsExtError, match="at least 2 are needed"):
        train(data="photos/red", overwrite=True)
    with monkeypatch.context() as patch:
        patch.setattr(Engine, "_set_up_training", fail)
        with pytest.raises(PpclsExtError, match="it fails"):
            train(data="others", overwrite=True)
    command = [sys.executable, "-c", f"{HOLDER}; print('held', flush=True); input()", str(folder)]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        for options in ({"overwrite": True}, {"resume": True}):
            with pytest.raises(PpclsExtError, match=f"in use by another training .process {process.pid} "):
                train("Global.epochs=2", data="others", **options)
        process.communicate("\n")
    assert content(folder) == before
    assert ppcls_ext.Run(folder).evaluate().metrics == accuracy


@pytest.mark.parametrize("override", ["Optimizer.no_such=1", "Loss.Train.0.CELoss.epsilon=abc", "Arch.no_such=1"])
def test_nothing_is_left_where_nothing_was(train, tmp_path, override):
    with pytest.raises(PpclsExtError):
        train(override)
    assert not (tmp_path / "output").exists()


def test_nothing_is_left_of_a_loss_that_is_refused(train, tmp_path):
    with pytest.raises(PpclsExtError, match="has parameters"):
        train(loss=paddle.nn.Linear(2, 1))
    assert not (tmp_path / "output").exists()


def test_a_first_epoch_that_fails_loses_nothing(folder, train, monkeypatch):
    before = content(folder)
    save = Checkpoints.save

    def save_best_only(self, name, *arguments):
        fail() if name == "latest" else save(self, name, *arguments)

    for method in ("is_best", "save"):
        with monkeypatch.context() as patch:
            patch.setattr(Checkpoints, method, save_best_only if method == "save" else fail)
            with pytest.raises(PpclsExtError, match="it fails"):
                train(data="others", overwrite=True)
        assert content(folder) == before


@pytest.mark.parametrize("moment", ["best_model", "latest"])
def test_killed_in_the_first_epoch_the_earlier_run_is_whole(folder, train, photos, moment):
    before, accuracy = content(folder), ppcls_ext.Run(folder).evaluate().metrics
    script = f"""
import os, sys, ppcls_ext
from ppcls_ext.training.checkpoints import Checkpoints
save = Checkpoints.save
def save_and_die(self, name, *arguments):
    save(self, name, *arguments)
    if name == {moment!r}:
        os.kill(os.getpid(), 9)
Checkpoints.save = save_and_die
ppcls_ext.train("tiny.yml", data={str(photos / "others")!r}, overwrite=True)
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert {name: data for name, data in content(folder).items() if not name.startswith(("first_", "."))} == before
    assert ppcls_ext.Run(folder).evaluate().metrics == accuracy
    run = train(data="others", overwrite=True)
    assert run.settings.class_names == ("blue", "green", "red")
    assert not (folder / "first_epoch").exists()


def test_nothing_old_lies_beside_the_new(folder, train, photos):
    for name in (f"{ARCH}.onnx", "inference/inference.json", "report/report.html", "epoch_9.pdparams", "eval.log"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("old")
    (folder / "notes.txt").write_text("mine")
    (folder / "lists" / "test_list.txt").write_text("old")
    before = content(folder)
    run = train("Global.save_interval=9", data="others", overwrite=True)
    after = content(folder)
    names = {"train_list.txt", "val_list.txt", "label_list.txt"}
    assert {path.name for path in (folder / "lists").iterdir()} == names
    others = {name.split("/")[0].split(".")[0] for name in after} - {"best_model", "latest"}
    assert others == {"config", "run", "lists", "metrics", "curves", "data", "batch", "notes"}
    assert [name for name in after if before.get(name) == after[name]] == ["notes.txt"]
    assert run.settings.config["DataLoader"]["Train"]["dataset"]["cls_label_path"] == str(
        folder / "lists" / "train_list.txt"
    )
    assert len(run.settings.image_list("Train")) + len(run.settings.image_list("Eval")) == 24
    (evaluation,) = run.evaluate().evaluations
    assert evaluation.images == 6


def test_a_disk_that_is_full_in_the_first_epoch(train, tmp_path, monkeypatch):
    """The averaged best model is saved, and nothing could be resumed from it."""
    write = checkpoint_sets._write_new

    def full(path, data):
        if path.name.startswith("latest"):
            raise OSError(errno.ENOSPC, "No space left on device")
        write(path, data)

    folder = tmp_path / "output" / ARCH
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint_sets, "_write_new", full)
        message = f"No space left on device; make room, then begin again: {folder} holds no checkpoint to resume from"
        with pytest.raises(PpclsExtError, match=message):
            train("Recipe.ema.decay=0.9")
        assert content(folder) == {}
    train("Recipe.ema.decay=0.9")
    before = content(folder)
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint_sets, "_write_new", full)
        message = f"make room, then begin again: {folder} is as it was before this training"
        with pytest.raises(PpclsExtError, match=message):
            train("Recipe.ema.decay=0.9", overwrite=True)
        with pytest.raises(PpclsExtError, match="make room, then resume with the same command and --resume"):
            train("Recipe.ema.decay=0.9", "Global.epochs=2", resume=True)
    assert content(folder)["latest.pdparams"] == before["latest.pdparams"]


def test_a_new_training_on_the_earlier_ones_lists_keeps_them(folder, train):
    before, settings = content(folder / "lists"), folder / "config.yml"
    run = train(source=str(settings), data=None, overwrite=True)
    assert content(folder / "lists") == before
    (evaluation,) = run.evaluate().evaluations
    assert evaluation.images == 4
    assert run.settings.class_names == ("green", "red")


def change(path: Path) -> None:
    """Leaves the last line out."""
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))


@pytest.mark.parametrize("moved", [False, True])
def test_a_list_that_was_changed_is_refused(folder, train, tmp_path, moved):
    if moved:
        folder = folder.rename(tmp_path / "kept")
        shutil.rmtree(tmp_path / "output")
    lists = folder / "lists"
    listed = {name: (lists / f"{name}_list.txt").read_text() for name in ("train", "val")}
    run = ppcls_ext.Run(folder)
    run.evaluate()
    change(lists / "val_list.txt")
    message = r"val_list\.txt was changed after the training \(4 → 3 lines\): put it back, or name the list .* -o "
    for path in (folder, folder / "latest"):
        with pytest.raises(PpclsExtError, match=message):
            ppcls_ext.Run(path).evaluate()
    with pytest.raises(PpclsExtError, match=message):
        train("Global.epochs=2", source=None, data=None, resume=folder)
    ppcls_ext.Run(folder).calibration_images(None, 2)  # of the other list
    (lists / "val_list.txt").write_text(listed["val"])
    run.evaluate()
    change(lists / "train_list.txt")
    run.evaluate()
    with pytest.raises(PpclsExtError, match=r"train_list\.txt was changed after the training \(12 → 11 lines\)"):
        run.calibration_images(None, 2)
    with pytest.raises(PpclsExtError, match=r"train_list\.txt was changed"):
        train("Global.epochs=2", source=None, data=None, resume=folder)
    (lists / "train_list.txt").write_text(listed["train"])
    (lists / "label_list.txt").write_text("0 red\n1 green\n")
    with pytest.raises(PpclsExtError, match="the same classes in another order"):
        train("Global.epochs=2", source=None, data=None, resume=folder)


def test_a_list_that_the_user_names_is_not_compared(folder, train, photos):
    listed = folder / "lists" / "val_list.txt"
    change(listed)
    named = f"DataLoader.Eval.dataset.cls_label_path={listed}"
    (evaluation,) = ppcls_ext.Run(folder, [named]).evaluate().evaluations
    assert evaluation.images == 3
    copy = photos / "photos" / "list.txt"
    copy.write_text(listed.read_text())
    (evaluation,) = ppcls_ext.Run(folder).evaluate(copy).evaluations
    assert evaluation.images == 3
    run = train("Global.epochs=2", named, source=None, data=None, resume=folder)
    assert read_set(folder / "latest").state["epoch"] == 2
    (evaluation,) = run.evaluate().evaluations
    assert evaluation.images == 3


@needs_converter
def test_the_lists_of_a_run_say_where_its_images_are(folder, train, tmp_path):
    run = ppcls_ext.Run(folder)
    (own,) = run.evaluate().evaluations
    (listed,) = run.evaluate(folder / "lists" / "val_list.txt").evaluations
    assert str(listed) == str(own)
    train_list = folder / "lists" / "train_list.txt"
    (trained,) = run.evaluate(train_list).evaluations
    assert trained.images == len(run.settings.image_list("Train"))
    exported = run.export_onnx().path
    assert ppcls_ext.evaluate(exported, train_list).top1 == pytest.approx(trained.value)
    shutil.copy(train_list, tmp_path / "train_list.txt")
    with pytest.raises(PpclsExtError, match="the list's paths start from image_root"):
        run.evaluate(tmp_path / "train_list.txt")


def test_resuming_keeps_the_lists(folder, train):
    before = content(folder / "lists")
    train("Global.epochs=2", data="photos", resume=True, split_seed=5)
    assert content(folder / "lists") == before
    assert read_set(folder / "latest").state["epoch"] == 2
    shutil.rmtree(folder / "lists")
    with pytest.raises(PpclsExtError, match="was changed after the training"):
        train("Global.epochs=3", data="photos", resume=True, split_seed=5)
    assert not (folder / "lists").exists()
    train("Global.epochs=3", data="photos", resume=True)
    assert content(folder / "lists") == before


def test_a_training_that_starts_from_anothers_checkpoint_is_a_new_run(folder, train, tmp_path):
    other = folder.rename(tmp_path / "first")
    train(data="photos")
    run = train(f"Global.checkpoints={other / 'latest'}", "Global.epochs=2", data="photos", overwrite=True)
    assert "resumed_with" not in (run.folder / "run.json").read_text()
    assert read_set(run.folder / "latest").state["epoch"] == 2


@pytest.mark.slow
def test_a_run_may_be_a_link(train, photos, tmp_path):
    """As where the output is on another disk: each command goes through it, and it stays."""
    folder, elsewhere = tmp_path / "output" / ARCH, tmp_path / "disk" / "run"
    elsewhere.mkdir(parents=True)
    folder.parent.mkdir()
    folder.symlink_to(elsewhere)
    train()
    train("Global.epochs=2", resume=True)
    assert read_set(folder / "latest").state["epoch"] == 2
    run = ppcls_ext.Run(folder)
    run.evaluate(report=True)
    run.export_model()
    run.infer([str(photos / "photos" / "red" / "0.png")], out="answers.json")
    assert {path.name for path in elsewhere.iterdir()} >= {"inference", "report-eval", "eval.log", "lists"}
    train("Global.epochs=1", data="others", overwrite=True)
    assert read_set(folder / "latest").state["epoch"] == 1
    assert not (folder / "inference").exists()
    assert folder.is_symlink()
    assert len(ppcls_ext.Run(elsewhere.rename(tmp_path / "moved")).evaluate().evaluations) == 1


def test_a_link_out_of_the_folder_is_not_followed(folder, train, tmp_path):
    mine = tmp_path / "mine"
    mine.mkdir()
    shutil.move(folder / "lists", mine / "lists")
    (folder / "lists").symlink_to(mine / "lists")
    before = content(mine)
    with pytest.raises(PpclsExtError, match=r"lists: it leads to .*mine/lists, out of .*, by a symbolic link"):
        train(data="others", overwrite=True)
    with pytest.raises(PpclsExtError, match=r"lists: it leads to .*mine/lists"):
        train("Global.epochs=2", resume=True)
    assert content(mine) == before
    ppcls_ext.Run(folder).evaluate()  # which reads


def test_a_resumed_training_that_comes_to_no_checkpoint_changes_nothing(folder, train, monkeypatch):
    """Else the run's settings and lists would be others than those that its weights were trained with."""
    names = ("config.yml", "run.json")
    before = {name: (folder / name).read_bytes() for name in names}
    copy = folder / "few.txt"
    copy.write_text("".join((folder / "lists" / "val_list.txt").read_text().splitlines(keepends=True)[:2]))
    changes = ["Global.epochs=2", f"DataLoader.Eval.dataset.cls_label_path={copy}"]
    for method in ("is_best", "save"):
        with monkeypatch.context() as patch:
            patch.setattr(Checkpoints, method, fail)
            with pytest.raises(PpclsExtError, match="it fails"):
                train(*changes, source=None, data=None, resume=folder)
        assert {name: (folder / name).read_bytes() for name in names} == before
    train(*changes, source=None, data=None, resume=folder)
    assert str(copy) in (folder / "config.yml").read_text()
    assert "resumed_with" in (folder / "run.json").read_text()
    (evaluation,) = ppcls_ext.Run(folder).evaluate().evaluations
    assert evaluation.images == 2


def test_a_run_that_was_replaced_since_it_was_opened(folder, train):
    """As by a training that ends its first epoch beside an export: weights and settings of two runs do not mix."""
    run = ppcls_ext.Run(folder)
    train(data="others", overwrite=True)
    for use in (run.evaluate, run.export_model, lambda: run.model):
        with pytest.raises(PpclsExtError, match="was trained with 3 classes, and the configuration says 2"):
            use()
