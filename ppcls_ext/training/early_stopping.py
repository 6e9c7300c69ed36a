"""`Global.patience`, the option --patience: a training ends where it has stopped getting better."""

from __future__ import annotations

import math

from ppcls_ext.training.epochs import Epoch, TrainingEnds


class EarlyStopping:
    """An observer that ends the training after `patience` epochs without a better evaluation.

    Args:
        patience: in epochs.
        best: the first epoch with the best evaluation so far, where a training is resumed.
        value: that evaluation's metric.
    """

    def __init__(self, patience: int, best: int = 0, value: float = -math.inf) -> None:
        self._patience, self._best, self._value = patience, best, value

    def __call__(self, epoch: Epoch) -> None:
        """Raises TrainingEnds where it is time."""
        if epoch.evaluation is None:
            return
        if epoch.evaluation.value > self._value:  # PaddleClas develop's best may be one that is as good as another
            self._best, self._value = epoch.number, epoch.evaluation.value
        elif epoch.number < epoch.of:
            waited = epoch.number - self._best
            if waited >= self._patience:
                raise TrainingEnds(
                    f"stopped early: {epoch.evaluation.metric} has not become better for {waited} epochs "
                    f"(best: epoch {self._best}; patience {self._patience})"
                )
