"""RepVGG's own weight decay: its share of the loss and of the gradients."""

from __future__ import annotations

import numpy as np
import pytest

from ppcls_ext.models.repvgg import custom_l2
from tests.training.conftest import Noted

COEFFICIENT = 0.01


def test_gradients_and_loss(engine, updates, config):
    config["Arch"]["name"] = "RepVGG_A0"
    config["Global"]["eval_during_train"] = False
    gradients, losses = [], []
    for recipe in ({}, {"custom_l2": COEFFICIENT, "weight_decay": {"start": 0.1, "end": 0.1}}):
        built = engine(**recipe)
        penalty = float(custom_l2(built.model))
        records, noted = updates(built), Noted()
        built.observers.append(noted)
        built.train()
        losses.append(noted.batches[0].loss)
        gradients.append(records[0]["gradients"])
        before, after, rate = records[0]["before"], records[0]["after"], records[0]["lr"]
    added = losses[1] - losses[0]
    # running statistics have moved once before the first loss
    assert added == pytest.approx(COEFFICIENT / 2 * penalty, rel=0.1)
    kernel = "stage2.0.rbr_dense.conv.weight"
    ring = np.ones((3, 3), bool)
    ring[1, 1] = False
    moved = gradients[1][kernel] - gradients[0][kernel]
    np.testing.assert_allclose(moved[..., ring], COEFFICIENT * before[kernel][..., ring], atol=1e-5)
    update = (before[kernel] - after[kernel]) / rate
    np.testing.assert_allclose(update, gradients[1][kernel], atol=1e-4, err_msg="no other decay of this kernel")
    update = (before["linear.weight"] - after["linear.weight"]) / rate - gradients[1]["linear.weight"]
    np.testing.assert_allclose(update, 0.1 * before["linear.weight"], atol=1e-4)
