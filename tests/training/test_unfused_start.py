"""Training that starts from fused weights."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

import ppcls_ext
from ppcls_ext.errors import PpclsExtError


@pytest.fixture
def fused_file(config, tmp_path, registered):
    """A file of fused weights of the configured model; returns the fused model."""

    def save(name: str, class_num: int = 2):
        config["Arch"]["name"] = name
        paddle.seed(5)
        model = ppcls_ext.build(name, class_num=class_num)
        for _ in range(3):
            model(paddle.randn([16, 3, 32, 32]))  # running statistics that are not those of a fresh net
        fused = ppcls_ext.reparameterize(model)
        paddle.save(fused.state_dict(), str(tmp_path / "fused.pdparams"))
        config["Global"]["pretrained_model"] = str(tmp_path / "fused.pdparams")
        return fused

    return save


def test_a_new_classifier_starts_from_the_seed(fused_file, engine, config):
    fused_file("FasterNet_T0", class_num=3)
    config["Global"]["seed"] = 7
    heads = []
    for _ in range(2):
        paddle.seed(len(heads))  # what happened before must not matter
        heads.append(engine(unfuse={"pictures": 16}).model.head.weight.numpy())
    assert np.array_equal(*heads)
    config["Global"]["seed"] = 8
    assert not np.array_equal(engine(unfuse={"pictures": 16}).model.head.weight.numpy(), heads[0])


@pytest.mark.parametrize("name", ["MobileOne_S0", "RepVGG_A0"])
def test_training_starts_with_the_fused_function(fused_file, engine, config, tmp_path, name):
    config["Optimizer"]["lr"]["learning_rate"] = 1e-6  # what starts from noise diverges
    fused = fused_file(name)
    built = engine(unfuse={"pictures": 16})
    assert "calibrated on 16 images" in (tmp_path / "output" / name / "train.log").read_text()
    x = paddle.randn([4, 3, 32, 32])
    built.model.eval()
    expected = fused(x).numpy()
    np.testing.assert_allclose(built.model(x).numpy(), expected, atol=1e-5 * np.abs(expected).max())
    built.model.train()
    branch = next(key for key in built.model.state_dict() if key.endswith("._mean"))
    assert built.model.state_dict()[branch].numpy().any(), "calibrated"
    if name == "RepVGG_A0":
        built.train()
        resumed = paddle.load(f"output/{name}/best_model.pdparams")
        assert set(resumed) == set(built.model.state_dict()), "the best model is unfused, as usual"


def test_classifier_of_other_classes_starts_afresh(fused_file, engine):
    fused = fused_file("FasterNet_T0", class_num=7)
    built = engine(unfuse={"pictures": 8})
    assert built.model.head.weight.shape == [1280, 2]
    kept = fused.state_dict()
    started = built.model.state_dict()
    same = [key for key in kept if key in started and np.array_equal(started[key].numpy(), kept[key].numpy())]
    assert len(same) > 20, "layers without branches are the file's"


def test_unfused_file_is_refused_before_anything_is_built(config, engine, tmp_path):
    paddle.save(ppcls_ext.build("FasterNet_T0", class_num=2).state_dict(), str(tmp_path / "w.pdparams"))
    config["Global"]["pretrained_model"] = str(tmp_path / "w.pdparams")
    with pytest.raises(PpclsExtError, match=r"Recipe\.unfuse: expected fused weights .*holds unfused weights"):
        engine(unfuse={"pictures": 8})
    assert not (tmp_path / "output").exists()


def test_fused_file_of_another_model(fused_file, engine, config):
    fused_file("FasterNet_T0")
    config["Arch"]["name"] = "FasterNet_T1"
    with pytest.raises(PpclsExtError, match=r"^[^ ]*fused.pdparams does not fit FasterNet_T1: "):
        engine()  # nobody spoke of Recipe.unfuse
