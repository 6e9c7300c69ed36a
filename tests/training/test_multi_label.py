"""A training with several labels an image: its lists, its evaluation, its thresholds, its record."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from ppcls_ext.config.lists import evaluate_on, images_in
from ppcls_ext.config.settings import RunSettings
from ppcls_ext.errors import PpclsExtError
from ppcls_ext.run import Run
from tests.helpers import build_engine, prepared
from tests.tiny_dataset import as_multi_label

pytestmark = pytest.mark.usefixtures("registered")


@pytest.fixture
def several(config, dataset, tmp_path, monkeypatch) -> dict:
    """The tiny configuration with three labels an image, in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    config["Arch"]["name"] = "FasterNet_T0"  # the quickest
    return as_multi_label(config, dataset, tmp_path)


def listed(several: dict, loader: str = "Train") -> dict:
    return several["DataLoader"][loader]["dataset"]


def test_paddleclas_is_told_the_task(several):
    del several["Global"]["use_multilabel"]
    assert prepared(several, "train")["Global"]["use_multilabel"] is True


@pytest.mark.parametrize("change", ["\ufeff{}", "{}\n\n"])
def test_lists_that_paddleclas_misreads_reach_it_as_copies(several, change):
    from ppcls.data import MultiLabelDataset

    path = listed(several)["cls_label_path"]
    text = Path(path).read_text()
    expected = MultiLabelDataset(listed(several)["image_root"], path, [])
    assert prepared(several, "train")["DataLoader"]["Train"]["dataset"]["cls_label_path"] == path
    Path(path).write_text(change.format(text), encoding="utf-8")
    config = prepared({**several, "Global": {**several["Global"], "overwrite": True}}, "train")
    dataset = config["DataLoader"]["Train"]["dataset"]
    assert dataset["cls_label_path"] != path
    assert "delimiter" not in dataset, "MultiLabelDataset knows none"
    read = MultiLabelDataset(dataset["image_root"], dataset["cls_label_path"], [])
    assert np.array_equal(read.labels, expected.labels)
    assert [Path(one).read_bytes() for one in read.images] == [Path(one).read_bytes() for one in expected.images]


@pytest.mark.parametrize(
    ("section", "value", "message"),
    [
        (
            "Loss",
            {"Train": [{"CELoss": {"weight": 1.0}}]},
            r"Loss\.Train\.0 is CELoss, which takes one class an image, ",
        ),
        (
            "Metric",
            {"Eval": [{"TopkAcc": {"topk": [1]}}]},
            r"Metric\.Eval\.0 is TopkAcc, .*: expected Hamm",
        ),
        ("MixupOperator", {"alpha": 0.2}, r"batch_transform_ops\.0 is MixupOperator, .*: remove it"),
        ("OpSampler", {"CutmixOperator": {"prob": 1.0}}, r"ops\.0\.OpSampler is CutmixOperator, .*: remove it"),
    ],
)
def test_what_takes_one_class_is_refused(several, section, value, message):
    if section in several:
        several[section].update(value)
    else:
        listed(several)["batch_transform_ops"] = [{section: value}]
    with pytest.raises(PpclsExtError, match=message) as caught:
        prepared(several, "train")
    assert "\n" not in str(caught.value)


def test_what_takes_several_is_refused_for_one(config, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config["Loss"]["Train"] = [{"MultiLabelLoss": {"weight": 1.0, "epsilon": 0.1}}]
    with pytest.raises(PpclsExtError, match=r"Loss\.Train\.0 is MultiLabelLoss, which takes several classes an image"):
        prepared(config, "train")


def test_lists_are_compared_and_counted(several, dataset, caplog):
    several["Global"]["pretrained_model"] = None
    text = Path(listed(several)["cls_label_path"]).read_text()
    Path(listed(several)["cls_label_path"]).write_text(text.replace(",1\n", ",0\n"))
    prepared(several, "train")
    said = [record.getMessage() for record in caplog.records]
    assert any("20 of the 20 images of " in line and "are training images too" in line for line in said)
    assert any(line.endswith("multi_train_list.txt has no image of 1 classes: 2") for line in said)
    several["Global"]["overwrite"] = True
    Path(listed(several)["cls_label_path"]).write_text("png/00.png\t0,0,0\n")
    with pytest.raises(PpclsExtError, match=r"no image of .*multi_train_list.txt shows any class: all labels are 0"):
        prepared(several, "train")


@pytest.mark.parametrize("workers", [0, 1])
def test_evaluation_refuses_a_replaced_image(several, dataset, tmp_path, workers):
    shutil.copytree(dataset / "png", tmp_path / "png")
    listed(several, "Eval")["image_root"] = str(tmp_path)
    several["DataLoader"]["Eval"]["loader"]["num_workers"] = workers
    engine = build_engine(several, "eval")
    (tmp_path / "png" / "13.png").write_bytes(b"")
    with pytest.raises(PpclsExtError, match=r"cannot read .*13\.png .*take it off the list"):
        engine.eval()
    (tmp_path / "png" / "00.png").write_bytes(b"")
    with pytest.raises(PpclsExtError, match=r"cannot read .*00\.png"):
        build_engine(several, "eval")


def test_training_ends_where_images_cannot_be_read(several, dataset, tmp_path):
    shutil.copytree(dataset / "png", tmp_path / "png")
    listed(several)["image_root"] = str(tmp_path)
    engine = build_engine(several)
    (tmp_path / "png" / "13.png").write_bytes(b"")
    with pytest.raises(PpclsExtError, match=r"1 of 24 training images, more than 1%, cannot be read: first .*13\.png"):
        engine.train()


def test_images_of_a_list(several, dataset, tmp_path):
    expected = sorted(dataset.glob("png/*.png"))
    run = RunSettings(several)
    assert images_in(None, run) == expected
    path = tmp_path / "multi_train_list.txt"
    assert images_in(path, run) == expected
    path.write_text(path.read_text().replace(",", ", "))
    assert images_in(path, run) == images_in(None, run) == expected


def test_evaluation_on_another_list(several, dataset, tmp_path):
    (dataset / "several.txt").write_text((tmp_path / "multi_val_list.txt").read_text())
    changed = evaluate_on(RunSettings(several), dataset / "several.txt")
    assert len(changed.image_list("Eval")) == 20
    with pytest.raises(PpclsExtError, match=r"png is a folder, which says one class an image, and the net tells sever"):
        evaluate_on(RunSettings(several), dataset / "png")


def test_check_images(several, tmp_path):
    listed(several)["image_root"] = listed(several, "Eval")["image_root"]
    checked = list(Run(RunSettings(several)).check_images("train"))
    assert [(one.images, one.unreadable) for one in checked] == [(24, []), (20, [])]
