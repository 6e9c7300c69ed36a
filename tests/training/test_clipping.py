"""Clipping by the global norm, observed in the updates."""

from __future__ import annotations

import numpy as np
import pytest


def norm(arrays) -> float:
    return float(np.sqrt(sum(np.square(array, dtype="float64").sum() for array in arrays)))


@pytest.mark.parametrize("limit", [0.5, 1e6])
def test_gradients_are_scaled_down_together(engine, updates, config, limit):
    config["Global"]["eval_during_train"] = False
    config["Optimizer"].pop("regularizer", None)
    built = engine(clip_global_norm=limit)
    records = updates(built)
    built.train()
    first = records[0]  # the velocity is the gradient
    total = norm(first["gradients"].values())
    assert total > 1
    scale = min(1, limit / total) * first["lr"]
    for name, gradient in first["gradients"].items():
        move = first["before"][name].astype("float64") - first["after"][name]
        np.testing.assert_allclose(move, scale * gradient, atol=1e-6, err_msg=name)
    moved = norm(first["before"][name].astype("float64") - first["after"][name] for name in first["gradients"])
    assert moved == pytest.approx(scale * total, rel=1e-3)


def test_adamw_sees_clipped_gradients(engine, config):
    config["Global"]["eval_during_train"] = False
    config["Optimizer"].pop("momentum")
    config["Optimizer"].update(name="AdamW", weight_decay=0.0)
    built = engine(clip_global_norm=1e-3)
    built.train()
    (optimizer,) = built.optimizer
    second = [value for name, value in optimizer.state_dict().items() if "moment2" in name]
    assert second
    # each update adds a thousandth of a squared gradient; all gradients together have the norm 1e-3 at most
    updates = built.config["Global"]["epochs"] * len(built.train_dataloader)
    assert 0 < sum(float(value.sum()) for value in second) <= updates * 1e-3 * 1e-6 * 1.01
