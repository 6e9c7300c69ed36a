"""The short options of `train`: which fields they set, and what contradicts them."""

from __future__ import annotations

from pathlib import Path

import pytest

from ppcls_ext.commands.train import main
from ppcls_ext.config.train_options import DEFAULT, TRAIN_OPTIONS
from ppcls_ext.errors import PpclsExtError
from ppcls_ext.run import open_training

VALUES = {
    **{"device": "cpu", "lr": 0.01, "weights": "a.pdparams", "size": 64, "class_weights": "sqrt", "sampler": "A"},
    **{"out": "runs", "name": "third", "freeze": "backbone:2", "best_by": "f1_macro", "budget": "30m"},
    "bf16": True,
}
#: Of options that set their fields to something else than what is given.
FIELDS = {"bf16": {"AMP.dtype": "bfloat16", "AMP.use_amp": True}}


@pytest.mark.parametrize("option", TRAIN_OPTIONS, ids=lambda option: option.name)
@pytest.mark.parametrize("source", [DEFAULT, "ImageNet/RepVGG_A0", "ImageNet/FasterNet_T0"])
def test_each_sets_its_fields(source, option):
    value = VALUES.get(option.name, 3)
    config = open_training(source, **{option.name: value}).settings.config
    if option.name == "size":
        assert config["Global"]["image_shape"] == [3, 64, 64]
        return
    for field in option.fields:
        node = config
        for key in field.split("."):
            node = node[key]
        assert node == FIELDS.get(option.name, {}).get(field, value), field


@pytest.mark.parametrize("option", TRAIN_OPTIONS, ids=lambda option: option.name)
def test_another_value_behind_o_is_refused(option):
    value, field = VALUES.get(option.name, 3), option.fields[-1]
    with pytest.raises(PpclsExtError, match=rf"{option.flag}.* and -o {field}=7 contradict each other"):
        open_training(DEFAULT, [f"{field}=7"], **{option.name: value})
    if option.name != "weights":
        open_training(DEFAULT, [f"{field}={value}"], **{option.name: value})  # the same twice


def test_what_stands_behind_o_wins_elsewhere():
    config = open_training(DEFAULT, ["Optimizer.lr.warmup_epoch=2", "Optimizer.lr.name=Step"], lr=0.5).settings.config
    assert config["Optimizer"]["lr"] == {"name": "Step", "learning_rate": 0.5, "warmup_epoch": 2}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("epochs", 0), ("epochs", 1.5), ("epochs", True), ("batch_size", -1), ("workers", -1), ("seed", 1e3)),
        *(("lr", 0), ("lr", float("nan")), ("lr", "fast"), ("device", ""), ("device", 1), ("weights", " ")),
        *(("size", "8x"), ("budget", "30"), ("budget", 30)),
    ],
)
def test_values_of_another_kind(name, value):
    with pytest.raises(PpclsExtError, match=rf"^{name} \(--{name.replace('_', '-')}\) is .*: expected "):
        open_training(DEFAULT, **{name: value})


def test_no_weights():
    config = open_training(DEFAULT, ["Global.pretrained_model=null"], weights="none").settings.config
    assert config["Global"]["pretrained_model"] is None


def test_images_alone_train_the_default(caplog):
    assert open_training(None, data="flowers").settings.arch.name == DEFAULT
    with pytest.raises(PpclsExtError, match="expected a configuration to train"):
        open_training(None)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--epochs", "0"], "argument --epochs: got '0', expected a whole number from 1"),
        (["--lr", "-1"], "argument --lr: "),
        (["--epochs", "3"], "NAME is one of MobileOne_S0, "),
        (["MobileOne_S0", "-c", "RepVGG_A0"], "got both MobileOne_S0 and -c RepVGG_A0"),
        (["."], "write --data . for your own images"),
    ],
)
def test_a_wrong_command_line(arguments, said, capsys):
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert said in capsys.readouterr().err


def test_help_says_fields_and_values(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    said = " ".join(capsys.readouterr().out.split())
    for option in TRAIN_OPTIONS:
        assert f"({option.fields[0]}" in said
    assert "(Global.epochs: 40)" in said


def test_the_folder_of_a_run():
    assert open_training("RepVGG_A0").folder == Path("output/RepVGG_A0")
    assert open_training("RepVGG_A0", out="runs", name="third").folder == Path("runs/third")
    assert open_training("RepVGG_A0", ["Global.run_name=third"]).folder == Path("output/third")


@pytest.mark.parametrize("name", ["../up", "a/b", ".hidden", "..", "/", "5"])
def test_names_that_are_no_folder(name):
    with pytest.raises(PpclsExtError, match=r"Global\.run_name \(--name\) is .*: expected the name of a folder"):
        _ = open_training("RepVGG_A0", [f"Global.run_name={name}"]).folder
