"""Trainings on images in shards are those on the same images in files."""

from __future__ import annotations

import copy
import shutil
from pathlib import Path

import numpy as np
import pytest

from ppcls_ext.config.lists import images_in
from ppcls_ext.config.settings import RunSettings
from ppcls_ext.data.image_files import check_images
from ppcls_ext.data.image_input import network_input
from ppcls_ext.data.image_rule import Preprocessing
from ppcls_ext.errors import PpclsExtError
from tests.helpers import build_engine
from tests.tiny_dataset import as_packed

pytestmark = pytest.mark.usefixtures("registered")


@pytest.fixture
def packed(config, dataset, tmp_path):
    """The configuration with both lists in three shards each."""
    return as_packed(copy.deepcopy(config), dataset, tmp_path / "packed")


def test_images_and_labels_are_the_same(config, packed, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plain, shards = (build_engine(one, "eval").eval_dataloader for one in (config, packed))
    for (images, labels), (expected, same) in zip(shards, plain):
        assert np.array_equal(images.numpy(), expected.numpy())
        assert np.array_equal(labels.numpy(), same.numpy())
    assert len(shards) == len(plain)


def test_a_shard_vanishes(packed, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    packed["Arch"]["name"] = "FasterNet_T0"
    packed["Global"]["eval_during_train"] = False
    engine = build_engine(packed, "train")
    shutil.rmtree(tmp_path / "packed")
    with pytest.raises(PpclsExtError, match=r"cannot read .*train-00000\d\.tar/\d+\+\d+/png/\d+\.png, nor 9 others"):
        engine.train()


def test_other_readers_open_shards_too(packed, tmp_path, monkeypatch):
    """Calibration, checking images, and predictions in Python."""
    monkeypatch.chdir(tmp_path)
    settings = RunSettings(packed)
    images = images_in(None, settings)
    assert images == [entry.path for entry in settings.image_list("Train")]
    assert images == images_in(packed["DataLoader"]["Train"]["dataset"]["cls_label_path"], settings)
    assert check_images(settings.image_list("Eval")) == []
    assert network_input(images[0], Preprocessing(resize_short=32, crop=(32, 32))).shape == (3, 32, 32)
    shard = Path(str(images[0])).parents[2]
    assert shard.suffix == ".tar"
    shard.write_bytes(bytes(shard.stat().st_size))
    with pytest.raises(PpclsExtError, match="holds no file of"):
        network_input(images[0], Preprocessing(resize_short=32, crop=(32, 32)))
    assert len(check_images(settings.image_list("Train"))) > 0
