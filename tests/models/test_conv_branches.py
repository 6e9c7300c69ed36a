"""MobileOne with another number of conv branches: another training form of the same fused network."""

from __future__ import annotations

import paddle
import pytest
import yaml

from ppcls_ext import build, register, reparameterize, unfuse
from ppcls_ext.errors import PpclsExtError
from ppcls_ext.models.factories import load_model
from ppcls_ext.models.mobileone import VARIANTS, MobileOne
from ppcls_ext.models.repvgg import RepVGG
from ppcls_ext.run import Run
from ppcls_ext.weights.loading import save_weights
from tests.helpers import build_engine, randomise_norms, relative


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("count", [1, 2])
def test_the_fused_network_is_the_same(name, count):
    model = build(name, class_num=3, num_conv_branches=count).eval()
    randomise_norms(model, 1)
    x = paddle.randn([2, 3, 32, 32])
    expected = model(x)
    fused = reparameterize(model)
    assert relative(fused(x), expected) < 1e-5
    as_usual = build(name, class_num=3, fused=True).state_dict()
    assert {key: value.shape for key, value in fused.state_dict().items()} == {
        key: value.shape for key, value in as_usual.items()
    }


def test_how_many_there_are():
    blocks = [layer for layer in build("MobileOne_S0", num_conv_branches=1).sublayers() if hasattr(layer, "branches")]
    usual = [layer for layer in build("MobileOne_S0").sublayers() if hasattr(layer, "branches")]
    assert len(blocks) == len(usual) > 20
    # the stem has one in each form
    assert sum(len(b.branches()) for b in usual) - sum(len(b.branches()) for b in blocks) == 3 * (len(blocks) - 1)


def test_unfusing_gives_that_form():
    paddle.seed(1)
    fused = build("MobileOne_S0", class_num=3, fused=True, num_conv_branches=1).eval()
    model = unfuse(fused, paddle.randn([32, 3, 64, 64]))
    x = paddle.randn([2, 3, 64, 64])
    assert relative(model.eval()(x), fused(x)) < 1e-4
    assert set(model.state_dict()) == set(build("MobileOne_S0", class_num=3, num_conv_branches=1).state_dict())


@pytest.mark.parametrize("value", [0, -1, 1.0, True, "2", [1]])
def test_other_numbers(value):
    with pytest.raises(PpclsExtError, match=r"num_conv_branches is .*: expected a whole number from 1"):
        build("MobileOne_S0", num_conv_branches=value)


@pytest.mark.parametrize("name", ["RepVGG_A0", "FasterNet_T0"])
def test_other_families_have_none(name):
    with pytest.raises(PpclsExtError, match="num_conv_branches"):
        build(name, num_conv_branches=1)


@pytest.mark.parametrize("count", [1, 2, 4])
@pytest.mark.parametrize("suffix", [".pdparams", ".npz"])
def test_weights_tell_their_number(tmp_path, count, suffix):
    path = tmp_path / f"weights{suffix}"
    model = build("MobileOne_S0", class_num=3, num_conv_branches=count).eval()
    save_weights(model, path)
    x = paddle.randn([2, 3, 32, 32])
    for again in (build("MobileOne_S0", class_num=3, pretrained=str(path)), load_model(path, "MobileOne_S0")[0]):
        assert relative(again.eval()(x), model(x)) < 1e-6
        assert again.blueprint.keywords["num_conv_branches"] == count
    with pytest.raises(PpclsExtError, match="does not fit MobileOne_S0"):
        build("MobileOne_S0", class_num=3, pretrained=str(path), num_conv_branches=3)


def test_names_of_other_namings_and_of_no_branches():
    names = ["module.stages.0.0.conv_kxk.0.conv.weight", "module.stages.0.0.conv_kxk.1.bn.running_mean"]
    assert MobileOne.form_of(names) == {"num_conv_branches": 2}
    model = build("MobileOne_S1")
    assert MobileOne.form_of(model.state_dict()) == {"num_conv_branches": 1}
    assert MobileOne.form_of(build("MobileOne_S1", fused=True).state_dict()) == {}
    many = [f"stage1.0.rbr_conv.{number}.conv.weight" for number in range(1000)]
    assert MobileOne.form_of([*model.state_dict(), *many]) == {"num_conv_branches": 1}, "what one block claims"
    assert RepVGG.form_of(build("RepVGG_A0").state_dict()) == {}


@pytest.mark.parametrize("recipe", [{}, {"unfuse": {"pictures": 8}}], ids=["not asked for", "asked for"])
def test_a_training_with_fewer_branches_than_the_weights(config, tmp_path, recipe, caplog):
    """They are fused and unfused: the training begins with the weights' function, calibrated."""
    register()
    given = build("MobileOne_S0", class_num=2)
    randomise_norms(given, 1)
    save_weights(given, tmp_path / "four.pdparams")
    config["Arch"] = {"name": "MobileOne_S0", "class_num": 2, "num_conv_branches": 1}
    config["Recipe"] = recipe
    config["Global"].update(output_dir=str(tmp_path / "out"), pretrained_model=str(tmp_path / "four.pdparams"))
    config["Global"]["epochs"] = 1
    with caplog.at_level("INFO", "ppcls_ext"):
        engine = build_engine(config, "train")
    assert recipe or "has num_conv_branches 4, and num_conv_branches 1 trained: the weights are fused" in caplog.text
    assert set(engine.network.state_dict()) == set(build("MobileOne_S0", num_conv_branches=1).state_dict())
    expected = reparameterize(given).state_dict()
    for key, value in reparameterize(engine.network).state_dict().items():
        assert (value - expected[key]).abs().max() <= 1e-4 * expected[key].abs().max(), key


def test_unfused_weights_of_the_same_form_are_not_unfused(config, tmp_path):
    register()
    save_weights(build("MobileOne_S0", class_num=2, num_conv_branches=1), tmp_path / "one.pdparams")
    config["Arch"] = {"name": "MobileOne_S0", "class_num": 2, "num_conv_branches": 1}
    config["Recipe"] = {"unfuse": {"pictures": 8}}
    config["Global"].update(output_dir=str(tmp_path / "out"), pretrained_model=str(tmp_path / "one.pdparams"))
    with pytest.raises(PpclsExtError, match=r"Recipe.unfuse: expected fused weights"):
        build_engine(config, "train")


def test_a_training_and_its_weights(config, tmp_path):
    """From fused weights to a run whose weights and fusion find the form in its settings."""
    fused = tmp_path / "fused.pdparams"
    paddle.save(build("MobileOne_S0", class_num=2, fused=True).state_dict(), str(fused))
    config["Arch"] = {"name": "MobileOne_S0", "class_num": 2, "num_conv_branches": 1}
    config["Global"].update(output_dir=str(tmp_path / "out"), pretrained_model=str(fused), epochs=1)
    (tmp_path / "one.yml").write_text(yaml.safe_dump(config))
    run = Run(tmp_path / "one.yml").train(quiet=True)
    assert run.settings.arch.arguments["num_conv_branches"] == 1
    assert set(run.model.state_dict()) == set(build("MobileOne_S0", class_num=2, num_conv_branches=1).state_dict())
    x = paddle.randn([2, 3, 32, 32])
    expected = run.model.eval()(x)
    again = reparameterize(run.model)
    assert relative(again(x), expected) < 1e-5
    assert set(again.state_dict()) == set(build("MobileOne_S0", class_num=2, fused=True).state_dict())
