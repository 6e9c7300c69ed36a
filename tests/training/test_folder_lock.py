"""One training at a time in a folder, and none over an earlier one's best model."""

from __future__ import annotations

import errno
import multiprocessing
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ppcls_ext.errors import PpclsExtError
from ppcls_ext.weights import folder_lock
from ppcls_ext.weights.checkpoint_sets import read_set
from ppcls_ext.weights.folder_lock import NAME, hold, release
from tests.helpers import build_engine, prepared, wait_for

ROOT = Path(__file__).resolve().parents[2]
HOLDER = "import sys; from pathlib import Path; from ppcls_ext.weights.folder_lock import hold; hold(Path(sys.argv[1]))"


@pytest.fixture
def holder(tmp_path):
    """A process that holds `tmp_path`/output."""
    command = [sys.executable, "-c", f"{HOLDER}; print('held', flush=True); input()", str(tmp_path / "output")]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_the_second_one_says_who_holds_it(tmp_path, holder):
    message = rf"(output|link) is in use by another training \(process {holder.pid} on \S+, since .*\d\d:\d\d:\d\d"
    for _ in range(2):
        with pytest.raises(PpclsExtError, match=message):
            hold(tmp_path / "output")
    (tmp_path / "link").symlink_to("output")
    with pytest.raises(PpclsExtError, match=message):
        hold(tmp_path / "link")
    holder.communicate("\n")
    assert not (tmp_path / "output").exists(), "what the first one made and did not use"
    hold(tmp_path / "output")
    release(tmp_path / "output")


@pytest.mark.parametrize("below", ["", "Net"])
def test_a_link_that_leads_nowhere(tmp_path, below):
    (tmp_path / "output").symlink_to("disk")
    with pytest.raises(PpclsExtError, match=r"output is a symbolic link to disk, where there is no folder; choose ano"):
        hold(tmp_path / "output" / below)
    (tmp_path / "disk").symlink_to("output")  # in a circle
    with pytest.raises(PpclsExtError, match="cannot train in"):
        hold(tmp_path / "output" / below)
    (tmp_path / "disk").unlink()
    (tmp_path / "disk").mkdir()
    hold(tmp_path / "output" / below)
    assert (tmp_path / "disk" / below / NAME).is_file()
    release(tmp_path / "output" / below)


def test_a_dead_process_holds_nothing(tmp_path, holder):
    holder.kill()
    holder.wait()
    assert str(holder.pid) in (tmp_path / "output" / NAME).read_text()
    hold(tmp_path / "output")
    assert f"process {os.getpid()} " in (tmp_path / "output" / NAME).read_text()
    release(tmp_path / "output")
    assert os.listdir(tmp_path / "output") == []


def test_children_that_load_images_hold_nothing(tmp_path):
    """A worker may outlive a killed training for a while; it does not keep the folder, nor let it go."""
    folder = tmp_path / "output"
    hold(folder)
    child = multiprocessing.get_context("fork").Process(target=release, args=(folder,))
    child.start()
    child.join()
    result = subprocess.run([sys.executable, "-c", HOLDER, str(folder)], cwd=ROOT, capture_output=True, text=True)
    assert "is in use by another training" in result.stderr
    worker = multiprocessing.get_context("fork").Process(target=signal.pause)
    worker.start()
    release(folder)
    result = subprocess.run([sys.executable, "-c", HOLDER, str(folder)], cwd=ROOT, capture_output=True, text=True)
    worker.kill()
    assert result.returncode == 0, result.stderr


def test_only_the_one_that_holds_it_counts(tmp_path):
    """Many at once, each for a moment: never two."""
    script = f"""
import os, random, time
{HOLDER}
folder = Path(sys.argv[1])
from ppcls_ext.weights.folder_lock import release
from ppcls_ext.errors import PpclsExtError
release(folder)
for _ in range(200):
    try:
        hold(folder)
    except PpclsExtError:
        continue
    mark = os.open(folder / "mark", os.O_CREAT | os.O_EXCL)
    os.close(mark)
    (folder / "mark").unlink()
    release(folder)
"""
    (tmp_path / "output").mkdir()
    started = [
        subprocess.Popen([sys.executable, "-c", script, str(tmp_path / "output")], cwd=ROOT, stderr=subprocess.PIPE)
        for _ in range(4)
    ]
    errors = [process.communicate()[1].decode() for process in started]
    assert not [error for error in errors if "FileExistsError" in error], errors


def test_a_worker_that_outlives_a_killed_training_holds_nothing(tmp_path):
    script = f"""
import multiprocessing, time
{HOLDER}
worker = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
worker.start()
print(worker.pid, flush=True)
time.sleep(60)
"""
    command = [sys.executable, "-c", script, str(tmp_path / "output")]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        worker = int(process.stdout.readline())
        process.kill()
        process.wait()
        try:
            os.kill(worker, 0)  # it lives
            hold(tmp_path / "output")
            release(tmp_path / "output")
        finally:
            os.kill(worker, signal.SIGKILL)


def test_without_fcntl_as_on_windows(tmp_path, monkeypatch):
    monkeypatch.setattr(folder_lock, "fcntl", None)
    hold(tmp_path / "output")
    hold(tmp_path / "output")
    second = f"from ppcls_ext.weights import folder_lock; folder_lock.fcntl = None; {HOLDER}"
    command = [sys.executable, "-c", second, str(tmp_path / "output")]
    assert (
        "in use by another training (another process)"
        in subprocess.run(command, cwd=ROOT, capture_output=True, text=True).stderr
    )
    release(tmp_path / "output")
    assert not (tmp_path / "output").exists()
    assert subprocess.run(command, cwd=ROOT).returncode == 0


def test_a_folder_that_cannot_be_locked(tmp_path, monkeypatch, caplog):
    def no_locks(handle, how):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.lockf", no_locks)
    hold(tmp_path)
    release(tmp_path)
    assert "cannot be locked (No locks available)" in caplog.text
    os.mkfifo(tmp_path / NAME)
    with pytest.raises(PpclsExtError, match="it is a FIFO"):
        hold(tmp_path)


def test_a_failed_preparation_leaves_nothing(config, tmp_path, monkeypatch, registered):
    monkeypatch.chdir(tmp_path)
    config["DataLoader"]["Train"]["dataset"]["cls_label_path"] = "nowhere.txt"
    with pytest.raises(PpclsExtError, match="nowhere"):
        prepared(config, "train")
    assert os.listdir() == []


@pytest.fixture
def train(config, tmp_path, monkeypatch, registered):
    monkeypatch.chdir(tmp_path)
    config["Arch"]["name"] = "FasterNet_T0"

    def run(**settings):
        import paddle

        config["Global"].update({"checkpoints": None, **settings})
        with paddle.utils.unique_name.guard():
            build_engine(config, "train").train()

    return run


def test_an_earlier_training_is_not_overwritten(train, config, tmp_path):
    folder = Path("output/FasterNet_T0")
    train()
    before = {path.name: path.read_bytes() for path in folder.glob("*.pd*")}
    config["Optimizer"]["lr"]["learning_rate"] = 0.02
    message = (
        r"best_model\.pdparams is of an earlier training, the best model of which this one would overwrite: .*--over"
    )
    with pytest.raises(PpclsExtError, match=message):
        train()
    train(output_dir="other", epochs=1)
    with pytest.raises(PpclsExtError, match=message):
        train(output_dir="output", checkpoints="other/FasterNet_T0/latest", epochs=2)
    assert {path.name: path.read_bytes() for path in folder.glob("*.pd*")} == before
    assert not (folder / NAME).exists()
    train(epochs=2, checkpoints="latest")  # the same training
    train(epochs=1, overwrite=True)
    assert read_set(folder / "latest").state["epoch"] == 1


def test_without_a_best_model_the_latest_counts(train):
    train(eval_during_train=False)
    with pytest.raises(PpclsExtError, match=r"latest\.pdparams is of an earlier training, the checkpoints of which"):
        train()


@pytest.mark.slow
def test_two_trainings_with_the_real_tool(config_file, tmp_path, run_tool):
    """The first goes on unharmed beside the second; killed, it is resumed, or overwritten where that is asked for."""
    options = ["-c", config_file, "-o", "Arch.name=FasterNet_T0", "Global.epochs=500", "Global.eval_interval=500"]
    first = subprocess.Popen(
        [sys.executable, str(ROOT / "tools" / "train.py"), *map(str, options)],
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    wait_for("[Epoch 2/500]", tmp_path / "output" / "FasterNet_T0" / "train.log", first)
    second = run_tool("train", *options, "Global.epochs=1", cwd=tmp_path)
    assert second.returncode == 0, second.stderr
    said = "output/FasterNet_T0 holds an earlier training: this one goes to output/FasterNet_T0-2 ("
    assert second.stderr.startswith(said)
    resumed = run_tool("train", *options, "--resume", "output/FasterNet_T0", cwd=tmp_path)
    assert resumed.returncode == 1
    assert f"in use by another training (process {first.pid} on " in resumed.stderr.splitlines()[-1]
    first.kill()
    first.wait()
    epoch = read_set(tmp_path / "output" / "FasterNet_T0" / "latest").state["epoch"]
    options.append(f"Global.epochs={epoch + 1}")
    fourth = run_tool("train", *options, "--resume", "output/FasterNet_T0", cwd=tmp_path)
    assert fourth.returncode == 0, fourth.stderr
    fifth = run_tool("train", *options, "Global.epochs=1", "--overwrite", cwd=tmp_path)
    assert fifth.returncode == 0, fifth.stderr
