"""The moving average: its values, where it is evaluated, what is saved, and that resuming continues it."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from ppcls_ext.errors import PpclsExtError
from tests.training.conftest import arrays

OUTPUT = "output/FasterNet_T0"


def by_hand(records: list[dict], start: dict, decays: list[float]) -> dict[str, np.ndarray]:
    average = {name: array.astype("float64") for name, array in start.items()}
    for record, decay in zip(records, decays):
        for name, array in record["after"].items():
            average[name] = decay * average[name] + (1 - decay) * array
    return average


def assert_same(state: dict, expected: dict, atol: float = 2e-6) -> None:
    assert set(state) == set(expected)
    for name, value in expected.items():
        np.testing.assert_allclose(np.asarray(state[name]), value, atol=atol, err_msg=name)


def load(path: str) -> dict[str, np.ndarray]:
    return arrays(paddle.load(f"{OUTPUT}/{path}.pdparams"))


@pytest.mark.parametrize(
    ("ema", "decays"),
    [
        ({"decay": 0.9, "warmup": False}, [0.9] * 6),
        ({"decay": 0.35}, [1 / 10, 2 / 11, 3 / 12, 4 / 13, 0.35, 0.35]),
    ],
)
def test_average_is_the_published_formula(engine, updates, config, ema, decays):
    config["Global"]["epochs"] = 2
    built = engine(ema=ema)
    start, records = arrays(built.model.state_dict()), updates(built)
    built.train()
    assert len(records) == len(decays)
    expected = by_hand(records, start, decays)
    assert_same(load("latest.ema"), expected)
    assert_same(load("latest"), records[-1]["after"], atol=0)
    far = max(np.abs(expected[name] - records[-1]["after"][name]).max() for name in expected)
    assert far > 1e-3, "average and trained weights have to differ, running statistics included"


def test_average_is_evaluated_and_saved_as_best(engine, config):
    built = engine(ema={"decay": 0.5, "warmup": False})
    seen = {}

    def observe(model, inputs):
        if not model.training:
            seen.update(arrays(model.state_dict()))

    built.model.register_forward_pre_hook(observe)
    built.train()
    assert_same(seen, load("latest.ema"), atol=0)
    assert_same(load("best_model"), seen, atol=0)
    assert_same(load("epoch_1.ema"), seen, atol=0)
    assert_same(arrays(built.model.state_dict()), load("latest"), atol=0)
    assert any((load("latest")[name] != seen[name]).any() for name in seen)


def test_evaluation_that_fails_leaves_the_trained_weights(engine):
    built = engine(ema={"decay": 0.5})
    built.recipe.begin(None)
    for parameter in built.model.parameters():
        parameter.set_value(parameter + 1)
    trained = arrays(built.model.state_dict())

    def fail(model, inputs):
        raise KeyboardInterrupt

    built.model.register_forward_pre_hook(fail)
    with pytest.raises(KeyboardInterrupt):
        built.eval()
    assert_same(arrays(built.model.state_dict()), trained, atol=0)


def test_without_recipe_nothing_is_added(engine, tmp_path):
    engine().train()
    assert not list((tmp_path / OUTPUT).glob("*.ema.*"))


def test_resuming_needs_the_average(engine, config, tmp_path):
    engine().train()
    config["Global"].update(checkpoints=f"{OUTPUT}/latest", epochs=2)
    with pytest.raises(PpclsExtError, match=r"Recipe\.ema: Global\.checkpoints has no average beside it"):
        engine(ema={"decay": 0.5})
