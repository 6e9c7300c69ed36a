"""A run's folder as a training leaves it, made without one: settings, record, random weights in a checkpoint set."""

from __future__ import annotations

import copy
import io
from pathlib import Path

import paddle
import pytest

import ppcls_ext
from ppcls_ext.config.folder import KEY, Record
from ppcls_ext.config.settings import RunSettings
from ppcls_ext.weights.checkpoint_sets import SetWriter

ARCH = "FasterNet_T0"


@pytest.fixture
def tiny_settings(config, dataset, tmp_path, monkeypatch) -> dict:
    """The configuration of a small net at 32 px."""
    (tmp_path / "png").symlink_to(dataset / "png")
    monkeypatch.chdir(tmp_path)
    config["Arch"]["name"] = ARCH
    crop = [{"ResizeImage": {"resize_short": 36}}, {"CropImage": {"size": 32}}]
    config["DataLoader"]["Eval"]["dataset"]["transform_ops"][1:1] = copy.deepcopy(crop)
    config["Infer"]["transforms"][1:1] = crop
    config["Global"]["output_dir"] = str(tmp_path / "output")
    return config


@pytest.fixture
def tiny_run(tiny_settings, tmp_path) -> Path:
    """The folder of a run whose best weights are a checkpoint set."""
    folder = tmp_path / "output" / ARCH
    facts = {KEY: RunSettings(tiny_settings).trained_with()}
    Record(folder).begin(tiny_settings, "ppcls-ext train …", resumed=False, **facts)
    save(folder, tiny_settings, seed=1)
    return folder


def save(folder: Path, settings: dict, seed: int) -> bytes:
    """Writes the set best_model; returns the bytes of its weights."""
    paddle.seed(seed)
    stream = io.BytesIO()
    paddle.save(ppcls_ext.build(ARCH, class_num=2).state_dict(), stream)
    writer = SetWriter(folder / "best_model")
    writer.add(folder / "best_model.pdparams", stream.getvalue())
    writer.commit({"epoch": 1, KEY: RunSettings(settings).trained_with()})
    return stream.getvalue()
