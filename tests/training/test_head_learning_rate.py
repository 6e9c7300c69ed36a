"""The classifier's own learning rate, observed in its updates."""

from __future__ import annotations

import numpy as np
import pytest


@pytest.mark.parametrize(
    ("name", "optimizer"), [("FasterNet_T0", "Momentum"), ("FasterNet_T0", "AdamW"), ("RepVGG_A0", "Momentum")]
)
def test_head_moves_ten_times_as_far(engine, updates, config, name, optimizer):
    config["Arch"]["name"] = name
    config["Global"]["eval_during_train"] = False
    if optimizer == "AdamW":
        config["Optimizer"].pop("momentum")
        config["Optimizer"].update(name="AdamW", weight_decay=0.0)
    moves = {}
    for factor in (1, 10):
        built = engine(head_learning_rate=factor)
        records = updates(built)
        built.train()
        first = records[0]
        moves[factor] = {
            key: first["after"][key].astype("float64") - first["before"][key] for key in first["gradients"]
        }
    for key, move in moves[1].items():
        ratio = 10 if key.startswith(("head.", "linear.")) else 1
        np.testing.assert_allclose(moves[10][key], ratio * move, atol=2e-6, err_msg=key)
    assert sum(key.startswith(("head.", "linear.")) for key in moves[1]) == 2
