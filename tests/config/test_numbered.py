"""Which folder a training takes where its name has been taken, and which run a bare --resume means."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ppcls_ext.config.numbered import with_own_folder
from ppcls_ext.config.settings import RunSettings, open_config
from ppcls_ext.errors import PpclsExtError
from ppcls_ext.weights.checkpoint_sets import SetWriter, how_to_resume
from ppcls_ext.weights.folder_lock import NAME, is_held, release
from tests.helpers import ROOT

pytestmark = pytest.mark.usefixtures("registered")


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def settings(name: str, **fields) -> RunSettings:
    return open_config("FasterNet_T0").changed("Global", output_dir="output", run_name=name, **fields)


def trained(name: str, started: str = "2026-11-01T10:00:00+00:00") -> Path:
    """A run's folder with one checkpoint."""
    folder = Path("output", name)
    folder.mkdir(parents=True)
    (folder / "config.yml").write_text("Global: {output_dir: output}\nArch: {name: FasterNet_T0}\n")
    (folder / "run.json").write_text(json.dumps({"started": started}))
    writer = SetWriter(folder / "latest")
    writer.add(folder / "latest.pdparams", b"weights")
    writer.commit({"epoch": 1, "resumable": True})
    return folder


def chosen(settings: RunSettings) -> str:
    found = with_own_folder(settings).folder
    assert found.parent == Path("output")
    release(found)
    return found.name


@pytest.mark.parametrize(
    ("there", "name", "expected"),
    [
        ((), "X", "X"),
        (("X",), "X", "X-2"),
        (("X", "X-2", "X-4"), "X", "X-3"),
        (("X", "X-2"), "X-2", "X-3"),
        (("lr-1",), "lr-1", "lr-1-2"),
        (("X.1", "Xa1"), "X", "X"),
    ],
)
def test_the_first_free_number(there, name, expected, caplog):
    caplog.set_level(logging.INFO)
    for one in there:
        trained(one)
    before = sorted(Path("output").rglob("*"))
    assert chosen(settings(name)) == expected
    said = f"output/{name} holds an earlier training: this one goes to output/{expected} (--overwrite"
    assert (said in caplog.text) == (name != expected)
    assert sorted(Path("output").rglob("*")) == before, "nothing is left of looking"


def test_the_folder_is_held_and_files_of_the_users_do_not_count():
    Path("output/X").mkdir(parents=True)
    Path("output/X/notes.txt").write_text("mine")
    taken = with_own_folder(settings("X"))
    assert taken.folder == Path("output/X")
    assert is_held(taken.folder)
    release(taken.folder)
    assert sorted(Path("output/X").iterdir()) == [Path("output/X/notes.txt")]


def test_a_folder_that_another_training_uses(caplog):
    caplog.set_level(logging.INFO)
    holder = "from pathlib import Path; from ppcls_ext.weights.folder_lock import hold; hold(Path('output/X'))"
    command = [sys.executable, "-c", f"{holder}; print('held', flush=True); input()"]
    options = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "env": environment()}
    with subprocess.Popen(command, **options) as process:
        assert process.stdout.readline() == "held\n"
        assert chosen(settings("X")) == "X-2"
        assert "output/X is in use by another training: this one goes to output/X-2" in caplog.text
        process.communicate("\n")


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT)}


def test_trainings_that_begin_at_the_same_moment():
    trained("X")
    script = """
import sys
from ppcls_ext.config.numbered import with_own_folder
from ppcls_ext.config.settings import open_config
import paddle.distributed
print("ready", flush=True)
input()
own = with_own_folder(open_config("FasterNet_T0").changed("Global", output_dir="output", run_name="X"))
print(own.folder.name, flush=True)
input()
"""
    options = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "env": environment()}
    processes = [subprocess.Popen([sys.executable, "-c", script], **options) for _ in range(3)]
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        process.stdin.write("\n")
        process.stdin.flush()
    names = [process.stdout.readline().strip() for process in processes]
    for process in processes:
        process.communicate("\n")
    assert sorted(names) == ["X-2", "X-3", "X-4"]


def test_overwrite_takes_the_name_itself():
    trained("X")
    assert with_own_folder(settings("X", overwrite=True)).folder == Path("output/X")


def test_resuming_means_the_run_begun_last(caplog):
    caplog.set_level(logging.INFO)
    trained("X", "2026-11-01T10:00:00+00:00")
    assert chosen(settings("X", checkpoints="latest")) == "X"
    assert caplog.text == ""
    trained("X-3", "2026-11-03T01:00:00+09:00")  # which is later than noon of the second in London
    trained("X-2", "2026-11-02T12:00:00+00:00")
    (trained("X-4", "2026-11-09T12:00:00+00:00") / "latest.json").unlink()  # without a whole checkpoint
    trained("X-y", "2026-11-09T12:00:00+00:00")
    assert chosen(settings("X", checkpoints="latest")) == "X-3"
    assert "resuming output/X-3, begun last of 4 runs (--resume RUN names another)" in caplog.text
    assert chosen(settings("X-2", checkpoints="latest")) == "X-2"
    assert chosen(settings("other", checkpoints="latest")) == "other"  # which says later that it holds none


def test_a_checkpoint_by_its_path():
    trained("X")
    trained("X-2")
    assert chosen(settings("X", checkpoints="output/X-2/latest")) == "X-2"
    trained("other")
    assert chosen(settings("X", checkpoints="output/other/latest")) == "X-3", "a new training, which begins there"


def test_a_named_run_stays_where_it_is():
    folder = trained("X-2")
    trained("X-3", "2026-12-01T10:00:00+00:00")
    given = RunSettings(settings("X", checkpoints="latest").config, folder)
    assert with_own_folder(given).folder == folder


def test_the_advice_names_the_run():
    assert how_to_resume(trained("my run")).startswith("resume with the same command and --resume 'output/my run': ")


def test_what_is_wrong_is_said_before_a_folder_is_taken():
    Path("output").write_text("a file")
    with pytest.raises(PpclsExtError, match="output is not a folder"):
        with_own_folder(settings("X"))
    wrong = settings("X")
    del wrong.config["Global"]["output_dir"]
    with pytest.raises(PpclsExtError, match=r"no Global\.output_dir"):
        with_own_folder(wrong)
    assert not list(Path().rglob(NAME))
