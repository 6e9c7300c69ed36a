"""A multi-label run's folder as a training leaves it, made without one: three classes, random weights."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import paddle
import pytest

import ppcls_ext
from ppcls_ext.config.folder import KEY, Record
from ppcls_ext.config.settings import RunSettings
from ppcls_ext.data.image_input import network_input
from ppcls_ext.run import Run
from ppcls_ext.weights.checkpoint_sets import SetWriter
from tests.tiny_run import ARCH

NAMES = ("red", "green", "night sky")


@pytest.fixture
def multi_label_settings(tiny_settings, dataset, tmp_path) -> dict:
    """The configuration of a small net at 32 px whose images have any of three labels."""
    config, lines = tiny_settings, (dataset / "train_list.txt").read_text().splitlines()
    labels = [f"{path}\t{1 - int(label)},{label},{number % 3 // 2}\n" for number, (path, label) in
              enumerate(map(str.split, lines))]  # fmt: skip
    (tmp_path / "labels.txt").write_text("".join(labels))
    (tmp_path / "names.txt").write_text("".join(f"{number} {name}\n" for number, name in enumerate(NAMES)))
    config["Arch"]["class_num"] = len(NAMES)
    config["Global"]["use_multilabel"] = True
    for loader in config["DataLoader"].values():
        loader["dataset"].update(name="MultiLabelDataset", cls_label_path=str(tmp_path / "labels.txt"))
    config["Loss"] = {when: [{"MultiLabelLoss": {"weight": 1.0}}] for when in ("Train", "Eval")}
    config["Metric"] = {"Eval": [{"HammingDistance": None}]}
    post_process = {"name": "MultiLabelTopk", "topk": 1, "class_id_map_file": str(tmp_path / "names.txt")}
    config["Infer"]["PostProcess"] = post_process
    return config


@pytest.fixture
def multi_label_run(multi_label_settings, tmp_path) -> Path:
    """The folder of a run, whose net shows none, one or several labels of the tiny data set's images."""
    folder, settings = tmp_path / "output" / ARCH, RunSettings(multi_label_settings)
    facts = {KEY: settings.trained_with()}
    Record(folder).begin(multi_label_settings, "ppcls-ext train …", resumed=False, **facts)
    stream = io.BytesIO()
    paddle.save(net(images_of(folder)).state_dict(), stream)
    writer = SetWriter(folder / "best_model")
    writer.add(folder / "best_model.pdparams", stream.getvalue())
    writer.commit({"epoch": 1, **facts})
    return folder


def images_of(run: Path) -> np.ndarray:
    """The images of the configuration, prepared: (N, 3, 32, 32) float32."""
    settings = Run(run).settings
    files = sorted(Path(settings.section("Infer")["infer_imgs"]).iterdir())
    return np.stack([network_input(file, settings.image_rule()) for file in files])


@paddle.no_grad()
def net(images: np.ndarray) -> paddle.nn.Layer:
    """A net with random weights, whose logits on these images have mean 0 and variance 4 for each class."""
    paddle.seed(1)
    model = ppcls_ext.build(ARCH, class_num=len(NAMES))
    model.eval()
    logits = model(paddle.to_tensor(images)).numpy()
    classifier = getattr(model, model.classifier)
    scale = 2 / logits.std(axis=0)
    classifier.weight.set_value(classifier.weight.numpy() * scale)
    classifier.bias.set_value((classifier.bias.numpy() - logits.mean(axis=0)) * scale)
    return model
