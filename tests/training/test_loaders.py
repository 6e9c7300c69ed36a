"""Images that cannot be read and processes that die, in training and in evaluation."""

from __future__ import annotations

import copy
import os
import re
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

from ppcls_ext.data.lists import SINGLE_LABEL, read_list
from ppcls_ext.errors import PpclsExtError
from ppcls_ext.hosts.paddleclas.image_lists import Listed, data_sets, renumbered
from ppcls_ext.hosts.paddleclas.versions import adds_architecture
from ppcls_ext.training.loaders import UnreadableImages, explained_workers, require_read
from tests.helpers import build_engine, prepared, wait_for

pytestmark = pytest.mark.usefixtures("registered")


def test_host_adds_architecture_as_it_really_does(tmp_path):
    from ppcls.utils.save_load import save_model

    save_model(paddle.nn.Linear(1, 1), [], {}, str(tmp_path), model_name="ARCH", prefix="probe")
    assert (tmp_path / "ARCH" / "probe.pdparams").exists() == adds_architecture()
    assert (tmp_path / "probe.pdparams").exists() != adds_architecture()


TRANSFORMS = [
    {"DecodeImage": {"to_rgb": True, "channel_first": False}},
    {"NormalizeImage": {"scale": 1.0, "mean": [0.0] * 3, "std": [1.0] * 3, "order": ""}},
]


@pytest.fixture
def build(dataset, tmp_path):
    """Builds the data set of `count` images 0.png, 1.png, … in images/, of the classes 0, 1, 0, 1, …."""
    (tmp_path / "images").mkdir()

    def build(count: int, evaluates: bool = False):
        for index in range(count):
            shutil.copy(dataset / "png" / "00.png", tmp_path / "images" / f"{index}.png")
        (tmp_path / "list.txt").write_text("".join(f"{index}.png {index % 2}\n" for index in range(count)))
        listed = Listed(read_list(tmp_path / "list.txt", tmp_path / "images", 2), evaluates)
        root, path = str(tmp_path / "images"), str(tmp_path / "list.txt")
        made = data_sets()[SINGLE_LABEL](listed, image_root=root, cls_label_path=path, transform_ops=TRANSFORMS)
        made.read_first("DataLoader.Train")
        return made

    return build


def damage(path: Path, kind: str) -> None:
    """Makes an image one that cannot be read, or its folder vanish."""
    data = path.read_bytes()
    path.unlink()
    if kind == "folder is gone":
        shutil.rmtree(path.parent)
    elif kind == "folder":
        path.mkdir()
    elif kind == "FIFO":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "circle of links":
        path.symlink_to(path)
    elif kind == "5 GB of nothing":
        with open(path, "wb") as stream:
            stream.truncate(5 << 30)
    elif kind != "missing":
        path.write_bytes({"empty": b"", "not an image": b"GIF? no", "truncated": data[: len(data) // 2]}[kind])


KINDS = [
    "missing",
    "empty",
    "not an image",
    "truncated",
    "FIFO",
    "device",
    "folder",
    "circle of links",
    "folder is gone",
]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("workers", [0, 1])
def test_evaluation_refuses_an_image_that_cannot_be_read(build, tmp_path, kind, workers):
    images = build(2, evaluates=True)
    loader = paddle.io.DataLoader(images, batch_size=1, num_workers=workers)
    assert [batch[1].item() for batch in loader] == [0, 1]
    require_read(images)
    damage(tmp_path / "images" / "1.png", kind)
    assert [batch[1].item() for batch in loader] == [0, 1], "the batches are whole, and no use is made of them"
    name = r"[01]\.png" if kind == "folder is gone" else r"1\.png"
    with pytest.raises(
        PpclsExtError, match=rf"cannot read .*{name}: \w+: .*; replace the file or take it off the list"
    ):
        require_read(images)


@pytest.mark.parametrize("workers", [0, 2])
def test_all_images_of_an_evaluation_are_truncated(build, tmp_path, workers):
    images = build(20, evaluates=True)
    for path in (tmp_path / "images").iterdir():
        damage(path, "truncated")
    loader = paddle.io.DataLoader(images, batch_size=4, num_workers=workers)
    assert len([*loader]) == 5
    with pytest.raises(PpclsExtError, match=r"cannot read .*\.png: PpclsExtError: .*Truncated"):
        require_read(images)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("kind", ["folder is gone", "truncated", "FIFO"])
def test_training_ends_where_no_image_can_be_read_any_more(build, tmp_path, workers, kind):
    images = build(40)
    unreadable = UnreadableImages(images)
    loader = paddle.io.DataLoader(images, batch_size=4, num_workers=workers)
    read = []

    def train() -> None:
        unreadable.begin()
        for batch in loader:
            unreadable.check()
            read.append(batch)
            for path in sorted((tmp_path / "images").iterdir()) if len(read) == 1 else ():
                if path.exists():
                    damage(path, kind)

    told = r"cannot read .*\.png, nor 9 others in its place: \w+: .*; replace"
    with pytest.raises(PpclsExtError, match=rf"{told}|\d of 40 training images, more than 1%, cannot be read"):
        train()
    assert 1 <= len(read) < 10


def test_a_huge_file_takes_no_memory(build, tmp_path):
    """PaddleClas reads all of it."""
    images = build(2, evaluates=True)
    damage(tmp_path / "images" / "1.png", "5 GB of nothing")
    assert images[1][1] == 1
    with pytest.raises(PpclsExtError, match=r"cannot read .*1\.png: PpclsExtError: .* is larger than the "):
        require_read(images)


def test_the_images_in_the_place_of_others_are_those_of_paddleclas(build, tmp_path):
    """A training with the same seed sees the same images as in PaddleClas, with faults and without."""
    from ppcls.data import ImageNetDataset

    ours = build(30)
    host = ImageNetDataset(str(tmp_path / "images"), str(tmp_path / "list.txt"), TRANSFORMS)
    rng = np.random.default_rng(3)
    for index in range(30):
        pixels = rng.integers(0, 256, (8, 8, 3)).astype("uint8")
        Image.fromarray(pixels).save(tmp_path / "images" / f"{index}.png")
    for index in range(0, 30, 2):
        damage(tmp_path / "images" / f"{index}.png", "truncated")
    drawn = []
    for dataset in (ours, host):
        np.random.seed(5)
        drawn.append([dataset[index] for index in range(30)])
    for (image, label), (expected, same) in zip(*drawn):
        assert np.array_equal(image, expected)
        assert (label, label.dtype) == (same, same.dtype)
    assert ours.listed.counts[:2] == [30, 15]


def test_a_data_set_that_is_built_anew_counts_on(build, tmp_path):
    """As PaddleClas does for each epoch of `Global.train_mode: progressive`, of a copy of the configuration."""
    images = build(2)
    (tmp_path / "images" / "1.png").write_bytes(b"")
    again = type(images)(
        copy.deepcopy({"listed": images.listed})["listed"], image_root="", cls_label_path="", transform_ops=TRANSFORMS
    )
    assert len(again[1][0]) == 3
    assert UnreadableImages(images)._counts[:] == [1, 1, 1]


def test_labels_are_those_of_paddleclas(build):
    images = build(5)
    assert images.labels.dtype == np.int64
    assert (images.labels.tolist(), images.class_num, len(images)) == ([0, 1, 0, 1, 0], 2, 5)
    assert images.images[-1] == images.images[4:][0]


@pytest.mark.parametrize("labels", [[3, 1, 3, 2], [10**9, 5, -7, 5, 10**9, 8, 16, 0], [*range(1000, 0, -7)]])
def test_relabel_numbers_as_paddleclas_develop_does(labels):
    seen = set()
    for label in labels:
        seen.add(np.int64(label))
    expected = {old: new for new, old in enumerate(seen)}
    assert renumbered(np.array(labels)).tolist() == [expected[label] for label in labels]


@pytest.mark.parametrize("workers", [0, 2])
def test_training_counts_what_it_cannot_read(build, tmp_path, workers):
    lines = []

    def warn(text):
        lines.append(text)

    images = build(300)
    unreadable = UnreadableImages(images)
    loader = paddle.io.DataLoader(images, batch_size=10, num_workers=workers)

    def train(epoch: int) -> int:
        unreadable.begin()
        images = 0
        for batch in loader:
            unreadable.check()
            images += len(batch[0])
        unreadable.report(epoch)
        return images

    for name in ("7.png", "250.png"):
        (tmp_path / "images" / name).write_bytes(b"")
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
            (tmp_path / "images" / name).write_bytes(b"not an image")
        with pytest.raises(PpclsExtError, match=r"4 of 300 training images, more than 1%, cannot be read: first .*png"):
            train(3)


@pytest.mark.parametrize("workers", [0, 2])
def test_the_folder_of_a_training_vanishes(config, dataset, tmp_path, monkeypatch, workers):
    shutil.copytree(dataset, tmp_path / "data")
    monkeypatch.chdir(tmp_path)
    config["Arch"]["name"] = "FasterNet_T0"
    config["Global"]["eval_during_train"] = False
    config["DataLoader"]["Train"]["dataset"].update(image_root="data", cls_label_path="data/train_list.txt")
    config["DataLoader"]["Train"]["loader"]["num_workers"] = workers
    engine = build_engine(config, "train")
    shutil.rmtree(tmp_path / "data")
    with pytest.raises(
        PpclsExtError, match=r"cannot read data/png/\d+\.png, nor 9 others in its place: FileNotF|more than"
    ):
        engine.train()


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


def test_first_image_is_read_before_anything_is_trained(build, tmp_path):
    images = build(2)
    state = np.random.get_state()[1].tolist()
    images.read_first("DataLoader.Train")
    (tmp_path / "images" / "0.png").write_bytes(b"")
    with pytest.raises(PpclsExtError, match=r"cannot read .*0\.png: \w+: "):
        images.read_first("DataLoader.Train")
    assert np.random.get_state()[1].tolist() == state


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("mode", ["eval", "train"])
def test_images_of_a_later_batch_do_not_go_together(config, dataset, tmp_path, monkeypatch, mode, workers):
    """Without processes of its own, Paddle's loader waits for ever."""
    Image.new("RGB", (40, 50)).save(tmp_path / "other.png")
    lines = (dataset / "train_list.txt").read_text().replace("png/", f"{dataset}/png/")
    (tmp_path / "list.txt").write_text(f"{lines}{tmp_path}/other.png 1\n")
    monkeypatch.chdir(tmp_path)
    config["Arch"]["name"] = "FasterNet_T0"
    config["Global"]["eval_during_train"] = False
    loader = config["DataLoader"]["Eval" if mode == "eval" else "Train"]
    loader["dataset"]["cls_label_path"] = "list.txt"
    loader["loader"]["num_workers"] = workers
    loader["sampler"].update(batch_size=5, shuffle=False)
    engine = build_engine(config, mode)
    told = r"^the images of a batch do not go together: ValueError: all input arrays must have the same shape; let"
    with pytest.raises(PpclsExtError, match=told):
        engine.eval() if mode == "eval" else engine.train()


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


@pytest.mark.slow
@pytest.mark.parametrize("ending", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_training_whose_images_became_fifos(config, dataset, tmp_path, ending):
    """PaddleClas's reader waits for a writer, in a thread that the main one waits for."""
    images = tmp_path / "images"
    shutil.copytree(dataset, images)
    lines = (images / "train_list.txt").read_text() * 9
    (images / "train_list.txt").write_text(f"{lines}png/23.png 1\npng/fifo.png 1\n")
    shutil.copy(images / "png" / "00.png", images / "png" / "fifo.png")
    config["DataLoader"]["Train"]["dataset"].update(
        image_root=str(images), cls_label_path=str(images / "train_list.txt")
    )
    config["DataLoader"]["Train"]["sampler"]["batch_size"] = 64
    config["Global"].update(eval_during_train=False, epochs=500)
    config["Arch"]["name"] = "FasterNet_T0"
    (tmp_path / "tiny.yml").write_text(yaml.safe_dump(config))
    before = signal.signal(ending, signal.SIG_DFL)  # the processes of pytest-xdist ignore SIGINT, and so would this one
    try:
        process = subprocess.Popen(
            [sys.executable, str(ROOT / "tools" / "train.py"), "-c", str(tmp_path / "tiny.yml")],
            cwd=tmp_path,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
    finally:
        signal.signal(ending, before or signal.SIG_DFL)
    log = tmp_path / "output" / "FasterNet_T0" / "train.log"
    wait_for("[Epoch 1/500]", log, process)
    damage(images / "png" / "fifo.png", "FIFO")
    wait_for("1 of 218 images could not be read", log, process)
    process.send_signal(ending)
    _, errors = process.communicate(timeout=20)
    assert process.returncode != 0
    assert re.search("^error: (terminated|interrupted)", errors.splitlines()[-1])
