"""`Recipe.freeze`: frozen layers stay exactly as they are, statistics included, and cost no gradients."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import paddle
import pytest

import ppcls_ext
from ppcls_ext.config.recipe import check_recipe, read_settings
from ppcls_ext.errors import PpclsExtError
from ppcls_ext.layers.rep_conv import RepConv
from ppcls_ext.run import open_training
from ppcls_ext.weights.checkpoint_sets import read_set
from tests.training.conftest import arrays

OUTPUT = Path("output/FasterNet_T0")


@pytest.fixture
def pretrained(config, tmp_path) -> dict[str, np.ndarray]:
    """The weights that the trainings begin with, which a file holds."""
    paddle.seed(3)
    state = ppcls_ext.build("FasterNet_T0", class_num=2).state_dict()
    paddle.save(state, str(tmp_path / "start.pdparams"))
    config["Global"]["pretrained_model"] = str(tmp_path / "start.pdparams")
    return arrays(state)


def trained_names(model: paddle.nn.Layer) -> set[str]:
    return {name for name, parameter in model.named_parameters() if not parameter.stop_gradient}


@pytest.mark.parametrize("name", ["MobileOne_S0", "RepVGG_A0", "FasterNet_T0"])
@pytest.mark.parametrize("stages", [1, 3, True])
def test_a_step_of_each_family(name, stages):
    paddle.seed(0)
    model = ppcls_ext.build(name, class_num=3, freeze=stages)
    model.train()
    before = arrays(model.state_dict())
    kept = {id(layer) for layer in model.frozen_layers()}
    assert all(layer.training == (id(layer) not in kept) for layer in model.sublayers())
    inner = {
        f"{path}.{at}" for path, layer in model.named_sublayers() if id(layer) in kept for at in layer.state_dict()
    }
    model(paddle.randn([2, 3, 64, 64])).sum().backward()
    learning = {key for key, parameter in model.named_parameters() if parameter.grad is not None}
    weights = {key for key in before if not key.endswith(("._mean", "._variance"))}
    assert learning == trained_names(model) == weights - inner
    changed = {key for key, value in arrays(model.state_dict()).items() if not np.array_equal(value, before[key])}
    assert changed == set(before) - weights - inner
    head = {key for key in before if key.startswith(f"{model.classifier}.")}
    if stages is True:
        assert learning == head
    else:
        last = model.parts()[stages]  # the first that is not frozen comes behind it
        assert all(id(layer) in kept for layer in last)
        assert not any(id(layer) in kept for layer in model.parts()[stages + 1])
        assert learning > head


@pytest.mark.parametrize("name", ["MobileOne_S0", "RepVGG_A0"])
def test_frozen_layers_run_as_fused_ones(name, monkeypatch):
    """Neither branches nor gradients are computed below the first layer that learns."""
    model = ppcls_ext.build(name, class_num=3, freeze=True)
    model.train()
    runs = []
    run_fused = RepConv.run_fused
    monkeypatch.setattr(RepConv, "run_fused", lambda self, x: runs.append(x.stop_gradient) or run_fused(self, x))
    assert not model(paddle.randn([2, 3, 64, 64])).stop_gradient
    assert runs == [True] * sum(isinstance(layer, RepConv) for layer in model.sublayers())


@pytest.mark.parametrize(
    ("part", "learns"), [("backbone", ["head."]), ("backbone:3", ["stages.5", "stages.6", "avgpool_pre_head", "head."])]
)
def test_a_training_with_evaluations_leaves_the_frozen_part(engine, config, pretrained, part, learns):
    config["Global"]["epochs"] = 2
    built = engine(freeze=part, ema={"decay": 0.5})
    built.train()
    names = {name for name, value in arrays(built.model.state_dict()).items() if (value != pretrained[name]).any()}
    assert names
    assert all(name.startswith(tuple(learns)) for name in names)
    assert any(name.endswith("._variance") for name in names) == (part == "backbone:3")
    for file in ("best_model", "latest", "latest.ema"):
        saved = arrays(paddle.load(str(OUTPUT / f"{file}.pdparams")))
        for name in set(saved) - names:
            np.testing.assert_array_equal(saved[name], pretrained[name], err_msg=f"{file} {name}")


def test_resumed_it_ends_with_the_same(engine, config, pretrained, fresh_process):
    config["Global"].update(epochs=2, save_interval=1)
    with fresh_process():
        engine(freeze="backbone:2").train()
    whole = arrays(paddle.load(str(OUTPUT / "latest.pdparams")))
    config["Global"].update(checkpoints=str(OUTPUT / "epoch_1"))
    with fresh_process():
        engine(freeze="backbone:2").train()
    assert read_set(OUTPUT / "latest").state["epoch"] == 2
    resumed = arrays(paddle.load(str(OUTPUT / "latest.pdparams")))
    for name, value in whole.items():
        np.testing.assert_array_equal(resumed[name], value, err_msg=name)


def test_random_weights_are_not_frozen(engine):
    with pytest.raises(PpclsExtError, match=r"these are random: give --weights \(Global\.pretrained_model\)"):
        engine(freeze="backbone")


@pytest.mark.parametrize("part", ["head", "backbone:0", "backbone:5", "backbone:", "Backbone", 2, True])
def test_what_is_possible_is_listed(part):
    said = r"Recipe\.freeze \(--freeze\) is .*: expected backbone, .* backbone:1, backbone:2, backbone:3, backbone:4, "
    with pytest.raises(PpclsExtError, match=said):
        open_training("FasterNet_T0", [f"Recipe.freeze={part}"])


@pytest.mark.parametrize(
    ("section", "fields", "said"),
    [
        ("Recipe", {"custom_l2": 1e-4}, "Recipe.custom_l2, which decays all kernels"),
        ("Arch", {"freeze_befor": "stage1"}, "Arch.freeze_befor are both given"),
    ],
)
def test_what_does_not_go_together(config, section, fields, said):
    config["Arch"].update(name="RepVGG_A0", pretrained="some.pdparams")
    config["Recipe"] = {"freeze": "backbone:1"}
    config[section].update(fields)
    with pytest.raises(PpclsExtError, match=said):
        check_recipe(read_settings(config), config, ours=True)


def test_only_this_projects_models(config):
    config["Arch"] = {"name": "DistillationModel", "class_num": 2}
    config["Recipe"] = {"freeze": "backbone"}
    with pytest.raises(PpclsExtError, match=r"Recipe\.freeze works with this project's models only"):
        check_recipe(read_settings(config), config, ours=False)
