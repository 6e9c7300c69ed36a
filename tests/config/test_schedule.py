"""Epochs and learning rate that follow from the images of a folder."""

from __future__ import annotations

import logging
import re
from pathlib import Path

import pytest
from PIL import Image

from ppcls_ext.config.lists import with_lists
from ppcls_ext.config.load import load_config
from ppcls_ext.config.schedule import (
    BATCH_SIZE,
    EPOCHS,
    FEWEST,
    HEAD,
    IMAGES,
    MIXING,
    OPEN_FIELDS,
    RANDOM_HEAD,
    RANDOM_RATE,
    RATE,
    epochs_for,
    fit_to_images,
    open_fields,
    rate_for,
)
from ppcls_ext.config.shipped import RECIPES
from ppcls_ext.data.class_folders import make_lists
from ppcls_ext.models.table import MODELS
from ppcls_ext.run import open_training

ALL = frozenset(OPEN_FIELDS)


@pytest.mark.parametrize("name", MODELS)
def test_the_shipped_configurations_have_these_batches(name):
    assert RECIPES[f"{name}.yml"].batch_size == BATCH_SIZE
    assert set(open_fields(name, {}, [])) == ALL


@pytest.mark.parametrize(
    ("images", "epochs"),
    [(1, 40), (500, 40), (IMAGES, 40), (2000, 29), (7169, 15), (50_000, 6), (1_281_167, FEWEST)],
)
def test_epochs(images, epochs):
    assert epochs_for(images, 40) == epochs


def test_the_table_of_the_documentation():
    text = (Path(__file__).parents[2] / "docs" / "reference" / "configuration.md").read_text(encoding="utf-8")
    section = text.split("## Epochs and learning rate of a folder")[1].split("\n## ")[0]
    rows = [
        [int(cell.replace(",", "")) for cell in row]
        for row in re.findall(r"^\| ([\d,]+) \| (\d+) \| ([\d,]+) \|$", section, re.M)
    ]
    assert len(rows) == 6
    for images, epochs, steps in rows:
        assert epochs == epochs_for(images, 40)
        assert steps == epochs * (images // BATCH_SIZE)


def test_few_epochs_stay_as_few():
    assert epochs_for(10**6, 3) == 3


@pytest.mark.parametrize(("batch_size", "rate"), [(8, 1.5e-4), (32, 3e-4), (64, 4.24e-4), (128, 6e-4)])
def test_learning_rate(batch_size, rate):
    assert rate_for(batch_size, 3e-4) == pytest.approx(rate)


@pytest.mark.parametrize(
    ("source", "options", "overrides", "expected"),
    [
        ("FasterNet_T0", {"epochs": 20}, [], {EPOCHS}),
        ("FasterNet_T0", {"lr": 0.1, "epochs": None}, [], {RATE}),
        ("FasterNet_T0", {}, ["Global.epochs=3"], {EPOCHS}),
        ("FasterNet_T0", {}, ["Global={epochs: 3}"], {EPOCHS}),
        ("FasterNet_T0", {}, ["Global.epochs_of_another=3"], set()),
        ("FasterNet_T0", {}, ["Optimizer.lr.learning_rate=3"], {RATE}),
        ("FasterNet_T0", {}, ["Optimizer.name=Momentum"], {RATE, HEAD}),  # whose rate is another
        ("FasterNet_T0", {}, ["Optimizer.lr.warmup_epoch=8"], {EPOCHS, RATE}),
        ("FasterNet_T0", {}, ["Optimizer.lr={name: Constant, learning_rate: 0.1}"], {EPOCHS, RATE}),
        ("FasterNet_T0", {}, ["Recipe.progressive=[{epoch: 1, size: 64}]"], {EPOCHS}),
        ("FasterNet_T0", {}, ["Recipe.head_learning_rate=1"], {HEAD}),
        ("FasterNet_T0", {}, ["DataLoader.Train.dataset.batch_transform_ops=[]"], {MIXING}),
        (
            "FasterNet_T0",
            {},
            ["DataLoader.Train.dataset.batch_transform_ops.0.OpSampler=null"],
            {MIXING},
        ),
        ("ImageNet/FasterNet_T0", {}, [], ALL),
        ("digits/MobileOne_S0", {}, [], ALL),
        ("my.yml", {}, [], ALL),
        (None, {}, [], ALL),
    ],
)
def test_what_is_given(source, options, overrides, expected):
    assert open_fields(source, options, overrides) == ALL - expected


def fitted(name: str, images: int, caplog, *overrides: str, weights: str | None, fields=ALL) -> tuple[dict, list[str]]:
    """A shipped configuration fitted to so many images, and what is said."""
    config = load_config(name, list(overrides))
    config["Global"]["pretrained_model"] = weights
    with caplog.at_level(logging.INFO, "ppcls_ext"):
        fit_to_images(config, fields, images)
    return config, caplog.messages


def test_weights_that_have_learnt(caplog):
    batches = "DataLoader.Train.sampler.batch_size=8"
    config, said = fitted("MobileOne_S0", 4080, caplog, batches, weights="published")
    assert config["Global"]["epochs"] == 20
    assert config["Optimizer"]["lr"]["learning_rate"] == pytest.approx(1.5e-4)
    assert config["Recipe"]["head_learning_rate"] == 10
    assert config["DataLoader"]["Train"]["dataset"]["batch_transform_ops"]
    assert said == [
        "4080 images: 20 epochs (--epochs), not 40 as for 1020",
        "batches of 8: learning rate 0.00015 (--lr), not 0.0003 as for 32",
    ]


@pytest.mark.parametrize("name", MODELS)
def test_random_weights(name, caplog):
    config, said = fitted(name, 4080, caplog, weights=None)
    rate = RANDOM_RATE[MODELS[name].family]
    assert config["Global"]["epochs"] == 40  # all of which they need
    assert config["Optimizer"]["lr"]["learning_rate"] == rate
    assert config["Recipe"]["head_learning_rate"] == RANDOM_HEAD
    assert "batch_transform_ops" not in config["DataLoader"]["Train"]["dataset"]
    assert said == [
        f"random weights (no --weights): learning rate {rate:g} (--lr), not 0.0003; the classifier's is 0.3 of it "
        "(Recipe.head_learning_rate), not 10 times; images are not mixed (DataLoader.Train.dataset.batch_transform_ops)"
    ]


def test_random_weights_in_other_batches(caplog):
    config, said = fitted("MobileOne_S0", 1020, caplog, "DataLoader.Train.sampler.batch_size=128", weights=None)
    assert config["Optimizer"]["lr"]["learning_rate"] == pytest.approx(0.02)
    assert said[1:] == ["batches of 128: learning rate 0.02 (--lr), not 0.01 as for 32"]


def test_random_weights_with_what_the_user_sets(caplog):
    config, said = fitted("MobileOne_S0", 1020, caplog, weights=None, fields=frozenset())
    assert config == load_config("MobileOne_S0")
    assert not said
    assert fitted("MobileOne_S0", 1020, caplog, weights=None, fields=frozenset({MIXING}))[1] == [
        "random weights (no --weights): images are not mixed (DataLoader.Train.dataset.batch_transform_ops)"
    ]


def test_an_architecture_of_the_host_is_left_alone(caplog):
    config, said = fitted("MobileOne_S0", 1020, caplog, "Arch.name=ResNet18", weights=None)
    assert config == load_config("MobileOne_S0", ["Arch.name=ResNet18"])
    assert not said


@pytest.mark.parametrize(
    "text", ["sampler.batch_size=-8", "sampler.batch_size=0", "sampler.batch_size=x", "sampler=null"]
)
def test_batches_that_are_refused_later(text):
    config = load_config("MobileOne_S0", [f"DataLoader.Train.{text}"])
    fit_to_images(config, ALL, 4080)
    assert config["Optimizer"]["lr"]["learning_rate"] == RANDOM_RATE["mobileone"]


def test_as_shipped_nothing_is_said(caplog):
    config = load_config("MobileOne_S0", ["Global.pretrained_model=published"])
    with caplog.at_level(logging.INFO, "ppcls_ext"):
        fit_to_images(config, ALL, 300)
    assert config == load_config("MobileOne_S0", ["Global.pretrained_model=published"])
    assert not caplog.messages


def test_the_settings_of_a_training():
    assert open_training("MobileOne_S0", data="flowers").settings.open_fields == ALL
    assert open_training(None, data="flowers").settings.open_fields == ALL
    assert open_training(None, data="flowers", epochs=3, lr=0.1).settings.open_fields == {HEAD, MIXING}
    assert open_training("MobileOne_S0").settings.open_fields == set()  # Flowers102 itself
    assert open_training("MobileOne_S0", ["Global.epochs=40"], data="flowers").settings.open_fields == ALL - {EPOCHS}


def test_the_lists_of_a_folder_bring_them(tmp_path):
    for number in range(8):
        path = tmp_path / "images" / f"class {number % 2}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (number, 0, 0)).save(path)
    made = make_lists(tmp_path / "images", tmp_path / "lists")._replace(images=(4080, 2))
    for options, epochs in (({}, 20), ({"epochs": 30}, 30), ({"weights": "none"}, 40)):
        settings = open_training(None, data="images", **{"weights": "published", **options}).settings
        assert with_lists(settings, made).section("Global")["epochs"] == epochs
