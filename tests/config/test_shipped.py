"""Shipped configurations by name, with and without files."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from ppcls_ext.config.load import load_config
from ppcls_ext.config.shipped import RECIPES, SHIPPED, nearest, shipped
from ppcls_ext.errors import PpclsExtError
from ppcls_ext.models.table import MODELS

CONFIGS = Path(__file__).resolve().parents[2] / "configs"


def test_every_configuration_has_a_name_and_all_differ():
    assert sorted(SHIPPED.values()) == sorted(RECIPES)
    assert SHIPPED["ImageNet/RepVGG_A0"] == "ImageNet/RepVGG/RepVGG_A0.yaml"


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("MobileOne_S0", "MobileOne_S0.yml"),
        ("digits/MobileOne_S0", "digits/MobileOne_S0.yml"),
        ("ImageNet/RepVGG_A0", "ImageNet/RepVGG/RepVGG_A0.yaml"),
        ("ImageNet/RepVGG/RepVGG_A0", "ImageNet/RepVGG/RepVGG_A0.yaml"),
    ],
)
def test_load_config(name, path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("MobileOne_S0").mkdir()  # a run's folder may be called as its model
    assert load_config(name) == load_config(CONFIGS / path)
    assert load_config(name, ["Global.epochs=3"])["Global"]["epochs"] == 3


def test_a_file_of_that_name_comes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("MobileOne_S0").write_text(yaml.safe_dump({"Global": {"epochs": 7}}))
    assert load_config("MobileOne_S0") == {"Global": {"epochs": 7}}


@pytest.mark.parametrize(
    ("name", "suggestion"),
    [
        ("configs/MobileOne_S0.yml", "-c MobileOne_S0"),
        ("configs/ImageNet/RepVGG/RepVGG_A0.yaml", "-c ImageNet/RepVGG_A0"),
        ("ImageNet/RepVGGA0", "-c ImageNet/RepVGG_A0"),
    ],
)
def test_an_unknown_name_is_an_error_that_suggests(name, suggestion, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert shipped(name) is None
    with pytest.raises(PpclsExtError, match=f"^no configuration {name}; .*shipped ones go by name: {suggestion}"):
        load_config(name)


@pytest.mark.parametrize(
    ("name", "first"), [("MobileOne_S9", "MobileOne_S"), ("repvgg_b2G4", "RepVGG_B2g4"), ("nonsense", "MobileOne_S0")]
)
def test_an_unknown_model_lists_all(name, first, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        PpclsExtError, match=f"no configuration file is called {name}: expected one of {first}"
    ) as error:
        load_config(name)
    assert all(f" {model}," in str(error.value) for model in MODELS)


def test_nearest_has_no_fear_of_odd_names():
    assert nearest("") == nearest("/") == nearest("../..") == []
