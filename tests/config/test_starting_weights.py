"""What a training begins with: fused weights get their branches back, published ones are fetched."""

from __future__ import annotations

import logging

import paddle
import pytest

import ppcls_ext
from ppcls_ext.config.settings import RunSettings
from ppcls_ext.errors import PpclsExtError
from tests.helpers import prepared


@pytest.fixture
def fused_file(config, tmp_path, registered, monkeypatch):
    """A file of fused weights, which the configuration names."""
    monkeypatch.chdir(tmp_path)
    config["profiler_options"] = None
    config["Arch"]["name"] = "FasterNet_T0"
    model = ppcls_ext.reparameterize(ppcls_ext.build("FasterNet_T0", class_num=2))
    paddle.save(model.state_dict(), "fused.pdparams")
    config["Global"]["pretrained_model"] = "fused"
    return "fused"


@pytest.fixture
def said(monkeypatch):
    """The messages of the logger ppcls_ext."""
    lines = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())
    logger = logging.getLogger("ppcls_ext")
    monkeypatch.setattr(logger, "handlers", [handler])
    monkeypatch.setattr(logger, "level", logging.INFO)
    return lines


def test_training_of_the_unfused_form_unfuses(fused_file, config, said):
    config["Recipe"] = {"head_learning_rate": 2}
    ready = prepared(config, "train")
    assert ready["Recipe"] == {"head_learning_rate": 2, "unfuse": {}}
    (line,) = [line for line in said if "fused weights" in line]
    assert line.startswith("fused holds fused weights: they get their branches back, calibrated on up to 512 training")
    assert "Arch.fused=True" in line


@pytest.mark.parametrize("change", [("Arch", "fused", True), ("Recipe", "unfuse", {"pictures": 8})])
def test_what_the_user_says_counts(fused_file, config, change):
    section, field, value = change
    config.setdefault(section, {})[field] = value
    ready = prepared(config, "train")
    assert (ready.get("Recipe") or {}).get("unfuse") == (value if field == "unfuse" else None)


def test_unfused_weights_stay_as_they_are(config, tmp_path, registered, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config.update(profiler_options=None)
    config["Arch"]["name"] = "FasterNet_T0"
    paddle.save(ppcls_ext.build("FasterNet_T0", class_num=2).state_dict(), "w.pdparams")
    config["Global"]["pretrained_model"] = "w"
    assert not prepared(config, "train").get("Recipe")


def test_other_modes_do_not_unfuse(fused_file, config):
    assert not prepared(config, "eval").get("Recipe")


def test_published(config, tmp_path, registered, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    config["Arch"]["name"] = "FasterNet_T0"
    path = tmp_path / "cache" / "ppcls_ext" / "FasterNet_T0_pretrained.pdparams"
    path.parent.mkdir(parents=True)
    paddle.save(ppcls_ext.build("FasterNet_T0", class_num=2).state_dict(), str(path))
    config["Global"]["pretrained_model"] = "published"
    assert prepared(config, "eval")["Arch"]["pretrained"] == str(path)


def test_none_are_published(config, tmp_path, registered, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config["Arch"]["name"] = "RepVGG_B2g2"
    config["Global"]["pretrained_model"] = "published"
    with pytest.raises(PpclsExtError, match="no weights of RepVGG_B2g2 are published"):
        prepared(config, "eval")


@pytest.mark.parametrize(
    ("change", "said_so"),
    [
        ({}, True),
        ({"class_num": 1}, True),
        ({"class_num": None}, True),
        ({"pretrained": True}, False),
        ({"name": "ResNet18"}, False),
    ],
)
def test_training_from_scratch_on_few_images(config, registered, said, change, said_so):
    from ppcls_ext.config.weights import say_what_to_expect

    config["Arch"].update(change)
    classes = config["Arch"]["class_num"] or 1000
    say_what_to_expect(RunSettings(config), 24)
    assert len(said) == said_so
    if said_so:
        assert said[0].startswith(f"MobileOne_S0 starts from random weights: 24 images of {classes} classes teach")
        assert "(--weights published)" in said[0]
    del said[:]
    say_what_to_expect(RunSettings(config), 100 * classes)
    assert not said, "enough"


def test_prepare_says_it(config, tmp_path, registered, said, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config["profiler_options"] = None
    prepared(config, "train")
    assert [line for line in said if "starts from random weights: 24 images of 2 classes" in line]
