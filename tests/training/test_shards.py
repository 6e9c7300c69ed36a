"""Trainings on images in shards are those on the same images in files."""

from __future__ import annotations

import copy
import shutil

import numpy as np
import pytest

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
