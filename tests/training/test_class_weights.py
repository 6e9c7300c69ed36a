"""Weights of classes in the loss: their formulas, their files, and a training with them."""

from __future__ import annotations

import numpy as np
import pytest

from ppcls_ext.errors import PpclsExtError
from ppcls_ext.training.class_weights import class_weights

LABELS = np.array([0] * 16 + [1] * 4 + [3])


@pytest.mark.parametrize(("kind", "power"), [("balanced", 1.0), ("sqrt", 0.5)])
def test_the_formula(kind, power):
    weights = class_weights(kind, LABELS, 4)
    assert weights[2] == 0, "no image is of it"
    assert weights[LABELS].mean() == pytest.approx(1)
    assert weights[3] / weights[0] == pytest.approx(16**power)
    assert weights[1] / weights[0] == pytest.approx(4**power)


def test_a_file(tmp_path):
    path = tmp_path / "weights.txt"
    path.write_text("daisy 1\n1 3\nblack rose 0\n3 5.5\n")
    weights = class_weights(str(path), LABELS, 4, ("daisy", "iris", "black rose", "tulip"))
    np.testing.assert_allclose(weights / weights[0], [1, 3, 0, 5.5])
    assert weights[LABELS].mean() == pytest.approx(1)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("0 1\n1 1\n2 1\n", "gives no weight for class 3 of 4"),
        ("0 1\n0 1\n", ":2: got '0 1', expected a new class"),
        ("0 1\nrose 1\n", ":2: got 'rose 1', which begins with no class: expected their numbers, 0 to 3"),
        ("0 x\n", ":1: got '0 x'"),
        ("0 -1\n", ":1: got '0 -1'"),
        ("0 nan\n", ":1: got '0 nan'"),
        ("4 1\n", ":1: got '4 1'"),
        ("", "empty"),
        ("0 0\n1 0\n2 1\n3 0\n", "all classes that have images have the weight 0"),
    ],
)
def test_a_damaged_file(tmp_path, text, said):
    path = tmp_path / "weights.txt"
    path.write_text(text)
    with pytest.raises(PpclsExtError) as error:
        class_weights(str(path), LABELS, 4)
    assert said in str(error.value)


def test_a_training_with_them(engine, config):
    config["Global"]["epochs"] = 1
    built = engine(class_weights="balanced")
    built.train()
    kinds = {type(loss).__name__ for loss in built.train_loss_func.loss_func}
    assert kinds == {"WeighedCELoss"}
    assert {type(loss).__name__ for loss in built.eval_loss_func.loss_func} == {"CELoss"}


def test_where_it_cannot_work(engine, config):
    with pytest.raises(PpclsExtError, match=r"Recipe\.class_weights is 'balance': expected balanced, sqrt, or a file"):
        engine(class_weights="balance")
    config["Loss"]["Train"] = [{"MultiLabelLoss": {"weight": 1.0}}]
    with pytest.raises(PpclsExtError):
        engine(class_weights="balanced")


def test_a_balanced_sampler_trains_and_is_known_by_its_short_name(engine, config):
    from ppcls_ext.config.train_options import set_options

    config["Global"]["epochs"] = 1
    set_options(config, {"sampler": "balanced"}, [])
    built = engine()
    assert type(built.train_dataloader.batch_sampler).__name__ == "BalancedBatchSampler"
    built.train()


def test_the_file_of_weights_is_found_from_any_folder(engine, config, tmp_path):
    (tmp_path / "weights.txt").write_text("0 1\n1 2\n")
    built = engine(class_weights="weights.txt")
    assert built.settings.config["Recipe"]["class_weights"] == str(tmp_path / "weights.txt")
    assert engine(class_weights="sqrt").settings.config["Recipe"]["class_weights"] == "sqrt"
