"""`Global.patience`, the option --patience: a training ends where it has stopped getting better."""

from __future__ import annotations

from ppcls_ext.engine.epochs import Epoch, TrainingEnds


class EarlyStopping:
    """An observer that ends the training after `patience` epochs without a better evaluation.

    Args:
        patience: in epochs.
        best: the epoch of the best evaluation so far, where a training is resumed.
    """

    def __init__(self, patience: int, best: int = 0) -> None:
        self._patience, self._best = patience, best

    def __call__(self, epoch: Epoch) -> None:
        """Raises TrainingEnds where it is time."""
        if epoch.is_best:
            self._best = epoch.number
        elif epoch.evaluation is not None and epoch.number < epoch.of:
            waited = epoch.number - self._best
            if waited >= self._patience:
                raise TrainingEnds(
                    f"stopped early: {epoch.evaluation.metric} has not become better for {waited} epochs "
                    f"(best: epoch {self._best}; patience {self._patience})"
                )
