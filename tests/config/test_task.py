"""The task of a run, one class an image or several, and the thresholds of its classes."""

from __future__ import annotations

import re

import pytest

from ppcls_ext.config.folder import KEY
from ppcls_ext.config.settings import RunSettings
from ppcls_ext.errors import PpclsExtError
from ppcls_ext.weights.checkpoint_sets import SetWriter
from tests.tiny_dataset import as_multi_label


@pytest.fixture
def several(config, dataset, tmp_path) -> dict:
    """The tiny configuration with three labels an image."""
    return as_multi_label(config, dataset, tmp_path)


@pytest.fixture
def weights(tmp_path):
    """Writes a file of weights with these facts beside it; returns its path."""

    def write(**facts) -> str:
        writer = SetWriter(tmp_path / "kept")
        writer.add(tmp_path / "kept.pdparams", b"weights")
        writer.commit({"epoch": 1, KEY: facts})
        return str(tmp_path / "kept.pdparams")

    return write


def test_the_configuration_says_it_once(config, several):
    assert RunSettings(config).task == RunSettings(config).trained_with()["task"] == "single-label"
    assert "thresholds" not in RunSettings(config).trained_with()
    assert RunSettings(several).task == RunSettings(several).trained_with()["task"] == "multi-label"
    del several["Global"]["use_multilabel"]
    assert RunSettings(several).task == "multi-label", "its lists say it, too"


@pytest.mark.parametrize("loader", ["Train", "Eval"])
def test_contradictions(several, loader):
    several["DataLoader"][loader]["dataset"]["name"] = "ImageNetDataset"
    message = rf"DataLoader\.{loader}\.dataset is a ImageNetDataset, with one class an image, and Global.use_multilabel"
    with pytest.raises(PpclsExtError, match=message):
        _ = RunSettings(several).task
    del several["Global"]["use_multilabel"]
    with pytest.raises(PpclsExtError, match=r"and that of \w+ a MultiLabelDataset"):
        _ = RunSettings(several).task
    several["Global"]["use_multilabel"] = False
    with pytest.raises(PpclsExtError, match=r"is a MultiLabelDataset, and Global.use_multilabel is false"):
        _ = RunSettings(several).task


def test_thresholds_of_the_weights(several, weights):
    assert RunSettings(several).thresholds is None
    several["Global"]["pretrained_model"] = weights(task="multi-label", thresholds=[0.25, 0.5, 1])
    assert RunSettings(several).thresholds == (0.25, 0.5, 1.0)
    several["Global"]["pretrained_model"] = weights(task="multi-label")
    assert RunSettings(several).thresholds is None
    several["Global"]["pretrained_model"] = "published"
    assert RunSettings(several).thresholds is None


@pytest.mark.parametrize(
    "kept", [[0.5, 0.5], [0.5, 0.5, "a"], [0.5, 0.5, 2], "0.5", [0.5, 0.5, float("nan")], [[], 0, 0]]
)
def test_damaged_thresholds_are_refused(several, weights, kept):
    several["Global"]["pretrained_model"] = weights(thresholds=kept)
    with pytest.raises(PpclsExtError, match=r"the thresholds kept beside .*kept\.pdparams are not 3 numbers from 0 to"):
        _ = RunSettings(several).thresholds


@pytest.mark.parametrize(("given", "expected"), [(0.3, (0.3,) * 3), (1, (1.0,) * 3), ([0, 0.2, 1], (0.0, 0.2, 1.0))])
def test_given_thresholds_come_first(several, weights, given, expected):
    several["Global"].update(pretrained_model=weights(thresholds=[0.25, 0.5, 1]), thresholds=given)
    assert RunSettings(several).thresholds == expected
    assert RunSettings(several).trained_with()["thresholds"] == list(expected)


@pytest.mark.parametrize("given", [-0.1, 1.1, "0.5", [0.5], [0.5, 0.5, None], True, float("nan"), {}])
def test_what_is_no_threshold(several, given):
    several["Global"]["thresholds"] = given
    with pytest.raises(
        PpclsExtError, match=re.escape(f"Global.thresholds is {given!r}: expected a number from 0 to 1")
    ):
        _ = RunSettings(several).thresholds


def test_thresholds_of_one_class_an_image(config):
    assert RunSettings(config).thresholds is None
    config["Global"]["thresholds"] = 0.5
    with pytest.raises(PpclsExtError, match=r"Global.thresholds says .* one class an image: remove it"):
        _ = RunSettings(config).thresholds


def test_weights_of_the_other_task_are_refused(config, several, weights, caplog):
    for settings, task, other in ((config, "single-label", "multi-label"), (several, "multi-label", "single-label")):
        settings["Global"]["pretrained_model"] = weights(task=other, architecture="MobileOne_S0")
        for mode in ("eval", "infer", "export"):
            with pytest.raises(PpclsExtError, match=rf"trained for {other} .*, and the configuration is {task}"):
                RunSettings(settings).weights(mode)
        assert not caplog.records
        assert RunSettings(settings).weights("train") is not None, "fine-tuning may change it, as it may the classes"
        (record,) = caplog.records
        assert f"was trained with task {other}; the configuration says task {task}" in record.getMessage()
        caplog.clear()
        settings["Global"]["pretrained_model"] = weights(architecture="MobileOne_S0")  # by an earlier version
        assert RunSettings(settings).weights("eval") is not None
        assert not caplog.records


def test_thresholds_of_nobody_knows_how_many_classes(several):
    several["Arch"] = {"name": "ResNet50"}
    several["Global"]["thresholds"] = 0.5
    with pytest.raises(
        PpclsExtError, match=r"Global.thresholds says one number a class: give their number, Arch.class_num"
    ):
        _ = RunSettings(several).thresholds
