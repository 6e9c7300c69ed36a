"""A line where running statistics lag behind the weights."""

from __future__ import annotations

import logging

import numpy as np
import paddle
import pytest
from paddle import nn

from ppcls_ext.training import statistics_lag
from tests.helpers import build_engine

pytestmark = pytest.mark.usefixtures("registered")

ARCHS = ["FasterNet_T0", "RepVGG_A0", "ResNet18"]


def state_of(engine) -> dict:
    return {name: value.numpy() for name, value in engine.model.state_dict().items()}


def same(state: dict, other: dict) -> bool:
    return all(np.array_equal(value, other[name]) for name, value in state.items())


def trained(config, tmp_path, monkeypatch, name: str = "FasterNet_T0", epochs: int = 8):
    """An engine whose network tells red from green, its running statistics those of the images."""
    monkeypatch.chdir(tmp_path)
    config["Arch"]["name"] = name
    config["Arch"].pop("drop_path_rate", None)
    config["Global"].update(epochs=epochs, eval_during_train=True, eval_interval=100)
    engine = build_engine(config, "train")
    engine.train()
    engine.model.train()
    norms = [
        layer for layer in engine.model.sublayers() if isinstance(layer, (nn.layer.norm._BatchNormBase, nn.BatchNorm))
    ]
    images = paddle.concat([batch[0] for batch in engine.eval_dataloader()])
    with paddle.no_grad():
        for norm in norms:
            norm._momentum = 0.0
        engine.model(images)
        for norm in norms:
            norm._momentum = 0.9
    return engine, norms


def spoil(norms: list) -> None:
    """Statistics as before the first update."""
    for norm in norms:
        norm._mean.set_value(paddle.zeros_like(norm._mean) + 2)
        norm._variance.set_value(paddle.ones_like(norm._variance) * 0.01)


@pytest.mark.parametrize("name", ARCHS)
def test_said_where_they_lag_only_and_nothing_changes(config, tmp_path, monkeypatch, name):
    engine, norms = trained(config, tmp_path, monkeypatch, name)
    before, modes = state_of(engine), [layer.training for layer in engine.model.sublayers(include_self=True)]
    numbers = paddle.get_rng_state()[0].current_seed(), np.random.get_state()[1].tolist()
    assert statistics_lag.statistics_lag(engine) is None
    spoil(norms)
    spoilt = state_of(engine)
    line = statistics_lag.statistics_lag(engine)
    assert line.startswith("of 16 images "), "twice the batch"
    assert line.count("\n") == 0
    own = name != "ResNet18"
    assert line.endswith("before each evaluation" if own else "a lower Recipe.ema.decay where it is set")
    assert same(spoilt, state_of(engine))
    assert not same(before, spoilt)
    assert modes == [layer.training for layer in engine.model.sublayers(include_self=True)]
    assert numbers == (paddle.get_rng_state()[0].current_seed(), np.random.get_state()[1].tolist())
    assert all(norm._momentum == 0.9 for norm in norms)


def test_frozen_ones_are_as_they_should_be(config, tmp_path, monkeypatch):
    engine, norms = trained(config, tmp_path, monkeypatch, epochs=1)
    spoil(norms)
    for norm in norms:
        norm.eval()
    assert statistics_lag.statistics_lag(engine) is None


def test_too_few_images_say_nothing(config, dataset, tmp_path, monkeypatch):
    lines = (dataset / "val_list.txt").read_text().splitlines(keepends=True)
    few = tmp_path / "few.txt"
    few.write_text("".join(lines[: statistics_lag.FEWEST - 1]))
    config["DataLoader"]["Eval"]["dataset"]["cls_label_path"] = str(few)
    engine, norms = trained(config, tmp_path, monkeypatch, epochs=1)
    spoil(norms)
    assert statistics_lag.statistics_lag(engine) is None


@pytest.mark.parametrize("change", ["small batches", "several labels"])
def test_what_is_not_compared(config, tmp_path, monkeypatch, change):
    engine, norms = trained(config, tmp_path, monkeypatch)
    spoil(norms)
    assert statistics_lag.statistics_lag(engine) is not None
    if change == "small batches":
        engine.train_dataloader.batch_sampler.batch_size = statistics_lag.FEWEST // 2 - 1
    else:
        engine.task = "multi-label"
    assert statistics_lag.statistics_lag(engine) is None


@pytest.mark.parametrize(("epochs", "interval", "expected"), [(1, 1, [1]), (4, 1, [2, 4]), (5, 2, [4]), (6, 2, [4, 6])])
def test_compared_halfway_and_at_the_end(config, tmp_path, monkeypatch, epochs, interval, expected):
    monkeypatch.chdir(tmp_path)
    config["Arch"]["name"] = "FasterNet_T0"
    config["Global"].update(epochs=epochs, eval_interval=interval, eval_during_train=True)
    engine, compared = build_engine(config, "train"), []
    monkeypatch.setattr("ppcls_ext.training.engine.statistics_lag", lambda given: compared.append(given._epoch))
    original = engine.eval

    def evaluate(number):
        engine._epoch = number
        return original(number)

    engine.eval = evaluate
    engine.train()
    assert compared == expected


def test_said_once(config, tmp_path, monkeypatch, caplog):
    monkeypatch.chdir(tmp_path)
    config["Arch"]["name"] = "FasterNet_T0"
    config["Global"].update(epochs=4, eval_interval=1, eval_during_train=True)
    engine = build_engine(config, "train")
    monkeypatch.setattr("ppcls_ext.training.engine.statistics_lag", lambda _: "they lag")
    with caplog.at_level(logging.WARNING, "ppcls_ext"):
        engine.train()
    assert [record.message for record in caplog.records].count("they lag") == 1
