"""What the section `Recipe` may hold, and how mistakes in it are answered."""

from __future__ import annotations

import pytest

from ppcls_ext.config.recipe import Decay, Ema, Settings, Stage, Unfuse, check_recipe, read_settings
from ppcls_ext.errors import PpclsExtError
from tests.helpers import prepared

STAGES = [{"epoch": 1, "size": 160, "strength": 0.3}, {"epoch": 39, "size": 192}]


def test_off_by_default():
    assert (
        read_settings({}) == read_settings({"Recipe": None}) == read_settings({"Recipe": {"ema": None}}) == Settings()
    )


def test_everything():
    recipe = {
        "ema": {"decay": 0.9995},
        "weight_decay": {"start": 1e-4, "end": 1e-5},
        "progressive": STAGES,
        "custom_l2": 1e-4,
        "head_learning_rate": 10,
        "clip_global_norm": 5,
        "unfuse": {"pictures": 512},
    }
    assert read_settings({"Recipe": recipe}) == Settings(
        Ema(0.9995, True), Decay(1e-4, 1e-5), (Stage(1, 160, 0.3), Stage(39, 192, None)), 1e-4, 10.0, 5.0, Unfuse(512)
    )


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ([], "Recipe is []: expected a mapping of ema, weight_decay"),
        ({"emma": {}}, "Recipe.emma is unknown: did you mean ema?"),
        ({"ema": 0.9}, "Recipe.ema is 0.9: expected a mapping of decay, warmup"),
        ({"ema": {}}, "Recipe.ema.decay is missing: Recipe.ema needs decay"),
        ({"ema": {"decay": 1.5}}, "Recipe.ema.decay is 1.5: expected a number from 0 to 1"),
        ({"ema": {"decay": 1}}, "Recipe.ema.decay is 1: expected less"),
        ({"ema": {"decay": True}}, "Recipe.ema.decay is True: expected a number"),
        ({"ema": {"decay": float("nan")}}, "Recipe.ema.decay is nan: expected a number"),
        ({"ema": {"decay": 0.9, "warmup": 5}}, "Recipe.ema.warmup is 5: expected true or false"),
        ({"weight_decay": {"start": 1e-4}}, "Recipe.weight_decay.end is missing"),
        ({"weight_decay": {"start": "1e-4", "end": 0}}, "YAML takes 1e-4 for text: write 1.0e-4"),
        ({"weight_decay": {"start": -1, "end": 0}}, "Recipe.weight_decay.start is -1: expected a number from 0 to 1"),
        ({"progressive": {}}, "Recipe.progressive is {}: expected a list of stages"),
        ({"progressive": []}, "Recipe.progressive is []: expected a list of stages"),
        ({"progressive": [{"size": 160}]}, "Recipe.progressive.0.epoch is missing"),
        ({"progressive": [{"epoch": 1}]}, "Recipe.progressive.0 has neither size nor strength"),
        ({"progressive": [{"epoch": 2, "size": 160}]}, "Recipe.progressive.0.epoch is 2: expected 1, the first epoch"),
        ({"progressive": [STAGES[0]] * 2}, "Recipe.progressive.1.epoch is 1: expected more than 1"),
        ({"progressive": [{"epoch": 1, "size": 1.5}]}, "progressive.0.size is 1.5: expected a whole number"),
        ({"progressive": [{"epoch": 1, "strength": 2}]}, "progressive.0.strength is 2: expected a number from 0 to 1"),
        ({"custom_l2": True}, "Recipe.custom_l2 is True: expected a number"),
        ({"clip_global_norm": 0}, "Recipe.clip_global_norm is 0: expected more"),
        ({"clip_global_norm": "5"}, "Recipe.clip_global_norm is '5': expected a number of at least 0"),
        ({"head_learning_rate": -1}, "Recipe.head_learning_rate is -1: expected a number of at least 0"),
        ({"head_learning_rate": float("inf")}, "Recipe.head_learning_rate is inf: expected a number of at least 0"),
        ({"unfuse": True}, "Recipe.unfuse is True: expected a mapping of pictures"),
        ({"unfuse": {"pictures": 0}}, "Recipe.unfuse.pictures is 0: expected a whole number of at least 1"),
        ({"teachers": ["output/a"]}, "Recipe.teachers is ['output/a']: expected a mapping of runs, share"),
        ({"teachers": {"share": 0.5}}, "Recipe.teachers.runs is missing"),
        ({"teachers": {"runs": "output/a"}}, "Recipe.teachers.runs is 'output/a': expected a list of folders"),
        ({"teachers": {"runs": []}}, "Recipe.teachers.runs is []: expected a list of folders"),
        ({"teachers": {"runs": ["a"], "share": 0}}, "Recipe.teachers.share is 0: expected more, or no teachers"),
        ({"teachers": {"runs": ["a"], "share": 1.5}}, "Recipe.teachers.share is 1.5: expected a number from 0 to 1"),
    ],
)
def test_wrong_fields(recipe, message):
    with pytest.raises(PpclsExtError) as error:
        read_settings({"Recipe": recipe})
    assert message in str(error.value)


EMA, DECAY, UNFUSE = {"ema": {"decay": 0.9}}, {"weight_decay": {"start": 0.1, "end": 0}}, {"unfuse": {"pictures": 8}}
TEACHERS = {"teachers": {"runs": ["output/a"]}}


@pytest.mark.parametrize(
    ("recipe", "changes", "message"),
    [
        (EMA, {"EMA": {"decay": 0.9}}, "EMA and Recipe.ema are both given"),
        (EMA, {"AMP": {"level": "O2"}}, "Recipe.ema needs weights in float32, and AMP.level is O2"),
        (EMA, {"Global": {"uniform_output_enabled": True}}, "does not work with Global.uniform_output_enabled"),
        (EMA, {"Arch": {"name": "DistillationModel"}}, "Arch.name is DistillationModel"),
        (EMA, {"Global": {"train_mode": "fixmatch"}}, "Recipe does not work with Global.train_mode fixmatch"),
        (EMA, {"Global": {"checkpoints": "nowhere/latest"}}, "no average beside it, nowhere/latest.ema.pdparams"),
        (DECAY, {"Optimizer": {"regularizer": {"name": "L2"}}}, "remove Optimizer.regularizer"),
        (DECAY, {"Optimizer": {"name": "AdamW", "weight_decay": 0.05}}, "remove Optimizer.weight_decay"),
        (DECAY, {"Optimizer": [{"SGD": {"weight_decay": 1}}]}, "remove Optimizer.0.SGD.weight_decay"),
        (DECAY, {"Optimizer": {"name": "Lars"}}, "works with SGD, Momentum, AdamW, and Optimizer.name is Lars"),
        ({"custom_l2": 1e-4}, {}, "custom_l2 is RepVGG's, for its unfused form; Arch.name is MobileOne_S0"),
        ({"custom_l2": 1e-4}, {"Arch": {"name": "RepVGG_A0", "fused": True}}, "Arch.fused is True"),
        (
            {"custom_l2": 1e-4},
            {"Arch": {"name": "RepVGG_A0"}, "Optimizer": {"regularizer": {"name": "L2"}}},
            "give Recipe.weight_decay for the other kernels",
        ),
        (
            {"head_learning_rate": 10},
            {"Arch": {"name": "ResNet50"}},
            "this project's models only, and Arch.name is",
        ),
        (
            {"clip_global_norm": 5.0},
            {"Optimizer": {"name": "SGD", "clip_norm": 1.0}},
            "Recipe.clip_global_norm and Optimizer.clip_norm, which clips each gradient alone",
        ),
        (UNFUSE, {}, "Global.pretrained_model is None: expected the path of a file of fused weights"),
        (UNFUSE, {"Global": {"checkpoints": "latest"}}, "set Recipe.unfuse to null to resume"),
        (UNFUSE, {"Global": {"pretrained_model": "w"}, "Arch": {"fused": True}}, "remove Arch.fused"),
        ({"progressive": STAGES}, {}, "sets a size, but DataLoader.Train.dataset.transform_ops has no RandCropImage"),
        ({"progressive": STAGES}, {"Global": {"use_dali": True}}, "does not work with Global.use_dali"),
        ({"progressive": [{"epoch": 1, "strength": 0.5}]}, {}, "has no AutoAugment or RandAugment"),
        (TEACHERS, {"Arch": {"name": "ResNet50"}}, "this project's models only, and Arch.name is"),
        (TEACHERS, {"Global": {"use_dali": True}}, "do not work with Global.use_dali"),
        ({**TEACHERS, "class_weights": "balanced"}, {}, "drop one of them, or train the teachers with the weights"),
    ],
)
def test_impossible_combinations(base_config, config, recipe, changes, message):
    config["Recipe"] = recipe
    for section, fields in changes.items():
        if isinstance(fields, dict):
            config[section] = {**(config.get(section) or {}), **fields}
        else:
            config[section] = fields
    settings = read_settings(config)
    with pytest.raises(PpclsExtError) as error:
        check_recipe(settings, config, ours=config["Arch"]["name"] != "ResNet50")
    assert message in str(error.value)


def test_evaluation_ignores_the_recipe(config, registered):

    config["Recipe"] = UNFUSE
    prepared(config, "eval")


def test_mistake_ends_the_tool_before_anything_is_written(config_file, run_tool, tmp_path):
    result = run_tool("train", "-c", config_file, "-o", "Recipe.ema.decay=2", cwd=tmp_path)
    assert result.returncode == 1
    assert "error: Recipe.ema.decay is 2: expected a number from 0 to 1" in result.stderr
    assert list(tmp_path.iterdir()) == []
