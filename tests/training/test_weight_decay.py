"""The coefficient that each kernel is decayed with, observed in its updates."""

from __future__ import annotations

import math

import numpy as np
import pytest

START, END = 0.2, 0.05  # large, to be seen in float32


def expected_coefficient(step: int, steps: int) -> float:
    return END + (START - END) * (1 + math.cos(math.pi * step / steps)) / 2


def momentum_coefficients(record: dict, velocities: dict, clip: float | None = None) -> dict[str, float]:
    """The decay of each kernel in one update of Momentum, from what the update did; `velocities` is carried along."""
    coefficients = {}
    for name, gradient in record["gradients"].items():
        before, after = (record[when][name].astype("float64") for when in ("before", "after"))
        velocity = (before - after) / record["lr"]
        norm = np.linalg.norm(gradient)
        if clip is not None and norm > clip:
            gradient = gradient * (clip / norm)
        added = velocity - 0.9 * velocities.get(name, 0.0) - gradient
        velocities[name] = velocity
        if before.any():  # a bias that is still 0 tells nothing
            coefficients[name] = float((added * before).sum() / (before**2).sum())
    return coefficients


@pytest.mark.parametrize("clip", [None, 0.01])
def test_momentum_adds_it_behind_clipping(engine, updates, config, clip):
    config["Global"].update(epochs=2, eval_during_train=False)
    config["Optimizer"]["lr"]["learning_rate"] = 0.05
    if clip:
        config["Optimizer"]["clip_norm"] = clip
    built = engine(weight_decay={"start": START, "end": END})
    records, velocities = updates(built), {}
    built.train()
    assert len(records) == 6
    for step, record in enumerate(records):
        coefficients = momentum_coefficients(record, velocities, clip)
        for name, coefficient in coefficients.items():
            is_kernel = record["before"][name].ndim > 1
            expected = expected_coefficient(step, 6) if is_kernel else 0.0
            assert coefficient == pytest.approx(expected, abs=2e-3 if is_kernel else 2e-2), name


def test_adamw_shrinks_the_weights(engine, updates, config):
    config["Global"].update(epochs=1, eval_during_train=False)
    config["Optimizer"] = {"name": "AdamW", "lr": {"name": "Cosine", "learning_rate": 0.01}}
    built = engine(weight_decay={"start": START, "end": END})
    records = updates(built)
    built.train()
    moments = dict.fromkeys(records[0]["gradients"], (0.0, 0.0))
    for step, record in enumerate(records):
        for name, gradient in record["gradients"].items():
            first, second = moments[name]
            first, second = 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient.astype("float64") ** 2
            moments[name] = first, second
            adam = first / (1 - 0.9 ** (step + 1)) / (np.sqrt(second / (1 - 0.999 ** (step + 1))) + 1e-8)
            before = record["before"][name].astype("float64")
            decay = expected_coefficient(step, 3) if before.ndim > 1 else 0.0
            expected = before * (1 - record["lr"] * decay) - record["lr"] * adam
            np.testing.assert_allclose(record["after"][name], expected, atol=2e-5, err_msg=name)


def test_amp_calls_another_method(engine, updates, config):
    """PaddleClas 2.4 calls `minimize` there instead of `step`."""
    config["Global"].update(epochs=1, eval_during_train=False)
    config["AMP"] = {"use_amp": True, "level": "O1"}
    built = engine(weight_decay={"start": START, "end": END}, ema={"decay": 0.5})
    records, velocities = updates(built), {}
    built.train()
    assert len(records) == 3
    for step, record in enumerate(records):
        assert momentum_coefficients(record, velocities)["head.weight"] == pytest.approx(
            expected_coefficient(step, 3), abs=2e-3
        )


def test_gradients_are_left_as_they_were(engine, updates, config):
    """The decay is the optimizer's: whoever looks at the gradients sees the loss's."""
    config["Global"].update(epochs=1, eval_during_train=False)
    gradients = []
    for recipe in ({}, {"weight_decay": {"start": START, "end": END}}):
        built = engine(**recipe)
        records = updates(built)
        built.train()
        gradients.append(records[0]["gradients"])
    for name, gradient in gradients[0].items():
        np.testing.assert_array_equal(gradients[1][name], gradient, err_msg=name)
