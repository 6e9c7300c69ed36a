"""The loop's own small parts; what a whole training does is in the other files here and in tests/options."""

from __future__ import annotations

import numpy as np
import pytest

from ppcls_ext.errors import PpclsExtError
from ppcls_ext.training.loop import batches, require_finite_loss, step_schedules


class Loader(list):
    """A loader that has to be reset at its end, as DALI's."""

    resets = 0

    def reset(self) -> None:
        self.resets += 1


def test_an_epoch_may_be_shorter_or_longer_than_the_loader():
    loader = Loader("abc")
    assert "".join(batches(loader, 2)) == "ab"
    assert loader.resets == 0
    assert "".join(batches(loader, 7)) == "abcabca"
    assert loader.resets == 2
    assert "".join(batches("abc", 4)) == "abca"


class Schedule:
    """Counts its steps."""

    def __init__(self, by_epoch: bool) -> None:
        self.by_epoch, self.steps = by_epoch, 0

    def step(self) -> None:
        self.steps += 1


class ReduceOnPlateau(Schedule):
    """Needs a metric, which only an evaluation gives."""


def test_schedules_are_stepped_with_updates_or_with_epochs():
    schedules = [Schedule(by_epoch=False), Schedule(by_epoch=True), ReduceOnPlateau(by_epoch=True)]
    for _ in range(3):
        step_schedules(schedules, by_epoch=False)
    step_schedules(schedules, by_epoch=True)
    assert [schedule.steps for schedule in schedules] == [3, 1, 0]


@pytest.mark.parametrize("loss", [np.nan, np.inf, -np.inf])
def test_a_loss_that_is_not_finite(loss):
    with pytest.raises(PpclsExtError, match=r"^epoch 2, batch 7: the loss is .*; try a lower Optimizer"):
        require_finite_loss(np.float32(loss), "epoch 2, batch 7")
    require_finite_loss(0.5, "")
