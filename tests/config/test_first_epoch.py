"""A new training's files take the place of an earlier one's: whole, at any moment, and without the user's own."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from ppcls_ext.config.first_epoch import EARLIER, VALUABLE, begin_aside, discard, files_of, put_in_place, settle
from ppcls_ext.config.folder import find_run
from ppcls_ext.config.weights import require_no_earlier_training
from ppcls_ext.errors import PpclsExtError
from ppcls_ext.weights.folder_lock import hold, release
from tests.helpers import die_at

SETS = [
    *("best_model.json", "best_model.pdparams", "best_model.pdstates", "best_model/model.pdparams"),
    *("best_model/best_model.json", "best_model/best_model/model.pdparams", "best_model/inference/inference.yml"),
    *("latest.json", "latest.pdparams", "latest.pdopt", "latest.ema.pdparams", "epoch_7.json", "epoch_7.pdparams"),
]
EXPORTED = ["Net.onnx", "Net_int8.onnx", "inference/inference.json", "inference/inference.pdiparams"]
EXPORTED += ["inference/inference.yml"]
OTHERS = ["config.yml", "run.json", "lists/train_list.txt", "lists/left_out.txt", "metrics.csv", "curves.png"]
OTHERS += ["report/report.html", "report/mistakes.png", "report-eval/per_class.csv", "eval.log"]
MINE = [
    "notes.txt",
    "my.onnx",
    "best_model.txt",
    "lists/mine.txt",
    "report/notes.md",
    "epoch_7x.pdparams",
    "mine/run.json",
]
NEW = ["config.yml", "run.json", "lists/train_list.txt", "latest.json", "latest.pdparams", "batch.png"]


def fill(folder: Path, names: list[str], text: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def content(folder: Path) -> dict[str, str]:
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != ".training.lock"]
    return {path.relative_to(folder).as_posix(): path.read_text() for path in files}


@pytest.fixture
def folder(tmp_path) -> Path:
    return make(tmp_path / "Net")


def make(folder: Path) -> Path:
    """A run's folder with everything that may be there, and a training aside that has come to its first checkpoint."""
    fill(folder, [*SETS, *EXPORTED, *OTHERS], "old")
    fill(folder, [*MINE, "train.log"], "mine")
    fill(begin_aside(folder), NEW, "new")
    return folder


KEPT = dict.fromkeys([*MINE, "train.log"], "mine")


def test_what_belongs_to_the_earlier_training_goes_and_the_users_own_stays(folder):
    put_in_place(folder)
    assert content(folder) == {**KEPT, **dict.fromkeys(NEW, "new")}
    assert not (folder / "inference").exists(), "nor an empty folder"


def test_a_training_that_failed_leaves_no_trace(folder):
    discard(folder)
    assert content(folder) == {**KEPT, **dict.fromkeys([*SETS, *EXPORTED, *OTHERS], "old")}
    discard(folder)


#: The operations before which a process is killed.
OPERATIONS = ("os.rename", "os.remove", "os.rmdir", "os.mkdir", "shutil.rmtree")


@pytest.mark.forks
def test_killed_at_any_moment_the_old_or_the_new_run_is_whole(tmp_path):
    seen = []
    for step in range(100):
        folder = make(tmp_path / str(step) / "Net")
        killed = die_at(step, lambda folder=folder: put_in_place(folder), OPERATIONS)
        die_at(step % 5, lambda folder=folder: settle(folder), OPERATIONS)  # killed once more
        assert find_run(folder).folder == folder, "opening the run settles it"
        found = content(folder)
        if (folder / "first_epoch").exists():
            discard(folder)
            assert content(folder) == {**KEPT, **dict.fromkeys([*SETS, *EXPORTED, *OTHERS], "old")}
            seen.append("old")
        else:
            assert found == {**KEPT, **dict.fromkeys(NEW, "new")}
            seen.append("new")
        if not killed:
            break
    assert not killed
    assert step > 30
    assert seen[0] == "old"
    assert set(seen[1:]) == {"new"}


def test_another_process_waits_until_the_files_are_in_their_place(folder):
    (folder / "first_epoch").rename(folder / ".replacing")
    holds, held = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            hold(folder)
            os.write(held, b"1")
            time.sleep(0.5)
            is_alone = (folder / ".replacing").is_dir()
            release(folder)
            os.write(held, b"1" if is_alone else b"0")
        finally:
            os._exit(0)
    os.close(held)
    assert os.read(holds, 1) == b"1"
    find_run(folder)
    assert os.read(holds, 1) == b"1", "find_run put the files in their place while another process held the folder"
    os.close(holds)
    os.waitpid(child, 0)
    assert content(folder) == {**KEPT, **dict.fromkeys(NEW, "new")}


def test_what_needs_overwrite(tmp_path):
    folder = tmp_path / "Net"
    fill(folder, ["config.yml", "run.json", "lists/train_list.txt", "metrics.csv", "notes.txt"], "")
    fill(folder, ["latest.pdparams.new", "my.onnx"], "")
    require_no_earlier_training(folder)  # nothing was completed
    for name, what in (
        ("epoch_3.pdparams", "the checkpoints"),
        ("best_model.pdparams", "the best model"),
        ("Net.onnx", "the exported files"),
        ("inference/inference.pdiparams", "the exported files"),
    ):
        fill(folder, [name], "")
        with pytest.raises(PpclsExtError, match=rf"{name} is of an earlier training, {what} of which"):
            require_no_earlier_training(folder)
        (folder / name).unlink()


def test_links_are_removed_and_not_followed(tmp_path):
    fill(tmp_path / "elsewhere", ["report.html", "model.pdparams"], "mine")
    folder = tmp_path / "Net"
    folder.mkdir()
    (folder / "report").symlink_to(tmp_path / "elsewhere")
    (folder / "latest.pdparams").symlink_to(tmp_path / "elsewhere" / "model.pdparams")
    assert files_of(folder, EARLIER) == files_of(folder, VALUABLE) == [folder / "latest.pdparams"]
    begin_aside(folder)
    put_in_place(folder)
    assert content(tmp_path / "elsewhere") == {"report.html": "mine", "model.pdparams": "mine"}


def test_a_first_epoch_is_no_run_yet(tmp_path):
    begin_aside(tmp_path / "Net")
    with pytest.raises(PpclsExtError, match="Net holds no weights: its training has not come to the end of an epoch"):
        find_run(tmp_path / "Net")


@pytest.mark.parametrize(("folder", "found"), [("FasterNet_T0", ["FasterNet_T0"]), ("third", ["RepVGG_A0", "third"])])
def test_exported_files_of_a_run_by_its_name(tmp_path, folder, found):
    """Where the folder is called as a model, the files of other models in it are the user's own."""
    place = tmp_path / folder
    place.mkdir()
    for name in {"RepVGG_A0", "mine", folder}:
        (place / f"{name}.onnx").touch()
    assert sorted(path.stem for path in files_of(place, VALUABLE)) == found
