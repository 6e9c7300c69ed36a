"""Sizes that the network sees and the share of pictures that is augmented, epoch by epoch."""

from __future__ import annotations

import numpy as np
import pytest

from ppcls_ext.config.recipe import Stage
from ppcls_ext.training.progressive import Curriculum


def crop_and_augment(config, policy: dict) -> None:
    operators = config["DataLoader"]["Train"]["dataset"]["transform_ops"]
    operators[1:1] = [{"RandCropImage": {"size": 32}}, policy]


def observe_sizes(engine) -> list[tuple[int, int]]:
    sizes = []

    def record(layer, inputs):
        if layer.training:
            sizes.append(tuple(inputs[0].shape[2:]))

    engine.model.register_forward_pre_hook(record)
    return sizes


@pytest.mark.parametrize("workers", [0, 1])
def test_network_sees_each_size(engine, config, workers):
    crop_and_augment(config, {"AutoAugment": None})
    config["Global"]["epochs"] = 3
    config["DataLoader"]["Train"]["loader"]["num_workers"] = workers
    built = engine(progressive=[{"epoch": 1, "size": 32, "strength": 0.3}, {"epoch": 2, "size": 64}])
    sizes = observe_sizes(built)
    built.train()
    assert sizes == [(32, 32)] * 3 + [(64, 64)] * 6


def test_epochs_that_end_early(engine, config):
    """PaddleClas develop then goes on with the same iterator, which has prepared pictures already."""
    crop_and_augment(config, {"AutoAugment": None})
    config["Global"].update(epochs=2, iter_per_epoch=1, eval_during_train=False)
    built = engine(progressive=[{"epoch": 1, "size": 32}, {"epoch": 2, "size": 64}])
    sizes = observe_sizes(built)
    built.train()
    half = len(sizes) // 2
    assert sizes == [(32, 32)] * half + [(64, 64)] * half


def test_resuming_starts_in_the_right_stage(engine, config, fresh_process):
    crop_and_augment(config, {"AutoAugment": None})
    progressive = [{"epoch": 1, "size": 32}, {"epoch": 2, "size": 64}]
    with fresh_process():
        engine(progressive=progressive).train()
    config["Global"].update(checkpoints="output/FasterNet_T0/latest", epochs=2, eval_during_train=False)
    with fresh_process():
        built = engine(progressive=progressive)
        sizes = observe_sizes(built)
        built.train()
    assert sizes == [(64, 64)] * 3


@pytest.mark.parametrize("policy", ["AutoAugment", "RandAugment", "TimmAutoAugment"])
def test_share_of_augmented_pictures(config, registered, policy):
    """Half of the pictures pass through untouched, and at strength 1 none does more often than without a recipe."""
    from ppcls.data import ImageNetDataset

    options = {"config_str": "rand-m9-mstd0.5-inc1"} if policy == "TimmAutoAugment" else None
    crop_and_augment(config, {policy: options})
    settings = config["DataLoader"]["Train"]["dataset"]
    dataset = ImageNetDataset(settings["image_root"], settings["cls_label_path"], settings["transform_ops"])
    curriculum = Curriculum([Stage(1, 32, 0.5), Stage(3, None, 0.0), Stage(5, 64, 1.0)], dataset)
    calls = []
    sometimes = dataset._transform_ops[2]
    operator, picture = sometimes._operator, np.zeros((32, 32, 3), "uint8")
    sometimes._operator = lambda image: calls.append(1) or operator(image)
    for epoch, expected in ((1, 200), (2, 200), (3, 0), (4, 0), (5, 400)):
        calls.clear()
        curriculum.set(epoch)
        for _ in range(400):
            sometimes(picture)
        assert len(calls) == pytest.approx(expected, abs=0 if expected in (0, 400) else 60), epoch
    assert dataset[0][0].shape == (3, 64, 64)


def test_stages_beyond_the_last_epoch_are_named(engine, config, tmp_path):
    crop_and_augment(config, {"AutoAugment": None})
    engine(progressive=[{"epoch": 1, "size": 32}, {"epoch": 39, "size": 64}])
    log = (tmp_path / "output" / "FasterNet_T0" / "train.log").read_text()
    assert "the stages from epoch 39 are not reached in 1 epochs" in log
