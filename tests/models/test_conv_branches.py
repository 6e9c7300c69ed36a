"""MobileOne with another number of conv branches: another training form of the same fused network."""

from __future__ import annotations

import paddle
import pytest
import yaml

from ppcls_ext import build, reparameterize, unfuse
from ppcls_ext.errors import PpclsExtError
from ppcls_ext.models.mobileone import VARIANTS
from ppcls_ext.run import Run
from tests.helpers import randomise_norms, relative


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
