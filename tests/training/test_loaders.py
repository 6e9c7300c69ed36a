"""Images that cannot be read and processes that die, in training and in evaluation."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import paddle
import pytest
from PIL import Image

from ppcls_ext.errors import PpclsExtError
from ppcls_ext.hosts.paddleclas.image_lists import mark_replacements, read_first
from ppcls_ext.hosts.paddleclas.versions import adds_architecture
from ppcls_ext.training.loaders import UnreadableImages, explained_workers, require_read
from tests.helpers import build_engine, prepared, wait_for

pytestmark = pytest.mark.usefixtures("registered")


def test_host_adds_architecture_as_it_really_does(tmp_path):
    from ppcls.utils.save_load import save_model

    save_model(paddle.nn.Linear(1, 1), [], {}, str(tmp_path), model_name="ARCH", prefix="probe")
    assert (tmp_path / "ARCH" / "probe.pdparams").exists() == adds_architecture()
    assert (tmp_path / "probe.pdparams").exists() != adds_architecture()


@pytest.fixture
def two_images(dataset, tmp_path):
    """PaddleClas's dataset of good.png (class 0) and bad.png (class 1), both still good."""
    from ppcls.data import ImageNetDataset

    (tmp_path / "png").mkdir()
    for name in ("good.png", "bad.png"):
        Image.open(dataset / "png" / "00.png").save(tmp_path / "png" / name)
    (tmp_path / "list.txt").write_text("png/good.png 0\npng/bad.png 1\n")
    transforms = [
        {"DecodeImage": {"to_rgb": True, "channel_first": False}},
        {"NormalizeImage": {"scale": 1.0, "mean": [0.0] * 3, "std": [1.0] * 3, "order": ""}},
    ]
    return ImageNetDataset(str(tmp_path), str(tmp_path / "list.txt"), transforms)


@pytest.mark.parametrize("damage", ["missing", "empty", "not an image"])
@pytest.mark.parametrize("workers", [0, 1])
def test_evaluation_refuses_a_replaced_image(two_images, tmp_path, damage, workers):
    bad = tmp_path / "png" / "bad.png"
    mark_replacements(two_images)
    loader = paddle.io.DataLoader(two_images, batch_size=1, num_workers=workers)
    assert [batch[1].item() for batch in loader] == [0, 1]
    if damage == "missing":
        bad.unlink()
    else:
        bad.write_bytes(b"" if damage == "empty" else b"GIF? no")

    good, replaced = [batch[1] for batch in loader]
    require_read(two_images, good)
    with pytest.raises(PpclsExtError, match=r"cannot read .*bad.png .*take it off the list"):
        require_read(two_images, replaced)


@pytest.fixture
def many_images(dataset, tmp_path):
    """PaddleClas's dataset of 300 images of class 0."""
    from ppcls.data import ImageNetDataset

    for index in range(300):
        shutil.copy(dataset / "png" / "00.png", tmp_path / f"{index}.png")
    (tmp_path / "list.txt").write_text("".join(f"{index}.png 0\n" for index in range(300)))
    transforms = [
        {"DecodeImage": {"to_rgb": True, "channel_first": False}},
        {"NormalizeImage": {"scale": 1.0, "mean": [0.0] * 3, "std": [1.0] * 3, "order": ""}},
    ]
    return ImageNetDataset(str(tmp_path), str(tmp_path / "list.txt"), transforms)


@pytest.mark.parametrize("workers", [0, 2])
def test_training_counts_what_it_cannot_read(many_images, tmp_path, workers):
    lines = []

    def warn(text):
        lines.append(text)

    unreadable = UnreadableImages(many_images)
    loader = paddle.io.DataLoader(many_images, batch_size=10, num_workers=workers)

    def train(epoch: int) -> int:
        unreadable.begin()
        images = 0
        for batch in loader:
            unreadable.check()
            images += len(batch[0])
        unreadable.report(epoch)
        return images

    for name in ("7.png", "250.png"):
        (tmp_path / name).write_bytes(b"")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ppcls.utils.logger.warning", warn)
        assert len([*loader]) == 30  # as calibration does, which is no part of an epoch
        for epoch in (1, 2):
            assert train(epoch) == 300, "others take their place"
        assert [line.partition(": first")[0] for line in lines] == [
            f"[Train][Epoch {epoch}] 2 of 300 images could not be read, and others took their place" for epoch in (1, 2)
        ]
        if not workers:
            assert lines[0].endswith("7.png")
        for name in ("100.png", "101.png"):
            (tmp_path / name).write_bytes(b"not an image")
        with pytest.raises(PpclsExtError, match=r"4 of 300 training images, more than 1%, cannot be read: first .*png"):
            train(3)


def test_training_ends_where_images_cannot_be_read(config, dataset, tmp_path, monkeypatch):

    shutil.copytree(dataset, tmp_path / "data")
    (tmp_path / "data" / "png" / "05.png").write_bytes(b"")
    monkeypatch.chdir(tmp_path)
    config["Arch"]["name"] = "FasterNet_T0"
    config["Global"]["eval_during_train"] = False
    config["DataLoader"]["Train"]["dataset"].update(image_root="data", cls_label_path="data/train_list.txt")
    with pytest.raises(PpclsExtError, match=r"1 of 24 training images, more than 1%, cannot be read: first .*05\.png"):
        build_engine(config, "train").train()
    assert not list((tmp_path / "output").rglob("*.pdparams"))


def test_overlap_of_the_lists_is_said_in_one_line(config, caplog):

    prepared(config, "train")
    (record,) = [record for record in caplog.records if "training images too" in record.message]
    assert record.message.startswith("20 of the 20 images of ")
    assert "val_list.txt are training images too" in record.message
    assert "\n" not in record.message


def test_paddleclas_replaces_an_image(two_images, tmp_path):
    """Why `mark_replacements` is there: should PaddleClas stop doing so, it can go."""
    (tmp_path / "png" / "bad.png").write_bytes(b"")
    assert two_images[1][1] == 0


def test_first_image_is_read_before_anything_is_trained(two_images, tmp_path):
    state = np.random.get_state()[1].tolist()
    read_first(two_images, "DataLoader.Train")
    (tmp_path / "png" / "good.png").write_bytes(b"")
    with pytest.raises(PpclsExtError, match=r"cannot read .*good.png: \w+: "):
        read_first(two_images, "DataLoader.Train")
    assert type(two_images).__name__ == "ImageNetDataset", "training may go on replacing images"
    assert np.random.get_state()[1].tolist() == state


ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    "error",
    [
        SystemError("(Fatal) DataLoader process (pid 7) exited is killed by signal: Killed. (at /paddle/x.cc:185)"),
        RuntimeError("DataLoader 1 workers exit unexpectedly, pids: 7"),
        OSError(  # the first, inside a gradient
            "(External) \n{\n    ==== Error message in backward of GradNodePyLayer__Node(0x5564)====\n    SystemError: "
            "(Fatal) DataLoader process (pid 7) exited is killed by signal: Killed. (at /paddle/x.cc:185)\n    \n    "
            "At:\n      /x/maps.py(8): backward\n    \n    ====\n    \n}\n (at /paddle/y.cc:177)\n"
        ),
    ],
)
def test_both_of_paddles_words(error):
    with pytest.raises(PpclsExtError, match=r"a process that loads images died \(DataLoader .*\): .*; run it again$"):
        fail(error)


def fail(error: Exception) -> None:
    with explained_workers():
        raise error


def test_other_errors_pass():
    with pytest.raises(RuntimeError, match="something else"):
        fail(RuntimeError("something else"))


@pytest.mark.slow
def test_a_killed_worker_of_a_real_training(config_file, tmp_path):
    options = ["Global.epochs=500", "Arch.name=FasterNet_T0", "DataLoader.Train.loader.num_workers=2"]
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "tools" / "train.py"), "-c", str(config_file), "-o", *options],
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    wait_for("[Epoch 2/500]", tmp_path / "output" / "FasterNet_T0" / "train.log", process)
    for _ in range(10_000):
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        if children:
            os.kill(int(children[-1]), signal.SIGKILL)
            break
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 1
    last = errors.splitlines()[-1]
    assert "a process that loads images died" in last
    assert "resume with " in last
