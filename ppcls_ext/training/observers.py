"""Observers, which follow a training: the base class, early stopping and the run's record.

All observers are called on every process, in their order. `epoch` is called when the epoch's checkpoints are on the
disk. An observer that raises `TrainingEnds` ends the training.
"""

from __future__ import annotations

import copy
import functools
import os
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import paddle
import paddle.distributed as dist

from ppcls_ext.config.folder import KEY, Record
from ppcls_ext.training.checkpoints import Checkpoints
from ppcls_ext.training.evaluation import Evaluation
from ppcls_ext.weights.manifest import manifest_path, read_manifest


class TrainingEnds(Exception):  # noqa: N818  it is no error
    """Raised by an observer to end the training; the text says why."""


class Batch(NamedTuple):
    """One step of a training.

    Attributes:
        epoch: its number, from 1.
        of: how many epochs there will be.
        done: steps of this epoch so far.
        total: steps of this epoch.
        loss: the average of this epoch so far.
        images_per_second: the average of this epoch so far, over all processes.
        seconds: since the epoch began.
        waiting: of these, how many went by until the images were read.
    """

    epoch: int
    of: int
    done: int
    total: int
    loss: float
    images_per_second: float
    seconds: float
    waiting: float = 0.0


class Epoch(NamedTuple):
    """One epoch of a training.

    Attributes:
        number: from 1.
        of: how many there will be.
        seconds: of its training, without the evaluation.
        images: trained on, by all processes.
        learning_rate: at its end.
        train: the averages of losses and metrics in training.
        evaluation: None where none was due.
        is_best: whether the evaluation was the best so far.
        best: the best evaluation's value so far; None before any.
    """

    number: int
    of: int
    seconds: float
    images: int
    learning_rate: float
    train: dict[str, float]
    evaluation: Evaluation | None
    is_best: bool
    best: float | None = None


class Observer:
    """Follows a training; each method does nothing unless it is overridden."""

    def begin(self) -> None:
        """Called when all is ready for the first epoch, and restored where the training is resumed."""

    def first_batch(self, images: paddle.Tensor, labels: paddle.Tensor) -> None:
        """Called with the first batch of an epoch, before its step; takes no time of the training's."""

    def batch(self, batch: Batch) -> None:
        """Called after each step."""

    def epoch(self, epoch: Epoch) -> None:
        """Called after each epoch."""

    def end(self) -> None:
        """Called when the training is over, unless it failed."""


class EarlyStopping(Observer):
    """Ends the training after `patience` epochs without a better evaluation (`Global.patience`, `--patience`).

    Args:
        patience: in epochs.
        checkpoints: which know the epoch that was the best.
    """

    def __init__(self, patience: int, checkpoints: Checkpoints) -> None:
        self._patience, self._checkpoints = patience, checkpoints

    def epoch(self, epoch: Epoch) -> None:
        """Raises TrainingEnds where it is time."""
        best = self._checkpoints.best_epoch
        if epoch.evaluation is None or best is None or epoch.number >= epoch.of:
            return
        waited = epoch.number - best
        if waited >= self._patience:
            raise TrainingEnds(
                f"stopped early: {epoch.evaluation.metric} has not become better for {waited} epochs "
                f"(best: epoch {best}; patience {self._patience})"
            )


class RunRecord(Observer):
    """Keeps the run's record, run.json.

    Args:
        engine: ours, built in its mode "train".
        checkpoints: of the same training.
    """

    def __init__(self, engine: Any, checkpoints: Checkpoints) -> None:
        self._engine, self._checkpoints = engine, checkpoints
        self._settings = engine.config["Global"]
        self._record = Record(engine.folder)
        self._write_beginning: Callable[[], None] | None = None

    def finished(self) -> str | None:
        """A text that says so and how to go on, where `Global.checkpoints` needs no more epochs."""
        checkpoint = self._settings["checkpoints"]
        if checkpoint is None or not manifest_path(Path(checkpoint)).is_file():
            return None
        state = read_manifest(Path(checkpoint)).state
        done, wanted = state["epoch"], self._settings["epochs"]
        folder, patience = self._engine.folder, self._settings.get("patience")
        if done >= wanted:
            return (
                f"{folder} is finished: {done} of {wanted} epochs are trained; to train longer: "
                f"-o Global.epochs={2 * done}"
            )
        best = state.get("best_epoch")
        if patience and best and done - best >= patience and self._record.facts.get("stopped"):
            return f"{folder} is finished: {self._record.facts['stopped']}; to go on: --patience {2 * patience}"
        return None

    def early_stopping(self) -> EarlyStopping | None:
        """Returns the observer that ends this training early, on every process; None without `Global.patience`."""
        patience = self._settings.get("patience")
        return EarlyStopping(patience, self._checkpoints) if patience else None

    def begin(self) -> None:
        """Writes the beginning of the record; where a training is resumed, not before its first checkpoint is there.

        Until then the folder holds the weights of other settings, and what it says of these stays.
        """
        if dist.get_rank() != 0:
            return
        resumed = self._settings["checkpoints"] is not None
        facts = copy.deepcopy(self._checkpoints.facts)
        best = (self._record.facts.get(KEY) or {}).get("thresholds") if resumed else None
        if best is not None and self._engine.settings.given_thresholds is None:
            facts[KEY]["thresholds"] = best
        self._write_beginning = functools.partial(
            self._record.begin,
            self._engine.settings.config,
            typed_command(),
            self._engine.place,
            self._engine.settings.made_lists,
            resumed=self._engine.resumed,
            seed=self._checkpoints.seed,
            device=paddle.device.get_device(),
            processes=dist.get_world_size(),
            threads=os.environ.get("OMP_NUM_THREADS"),
            precision=str(self._engine.precision),
            epochs=self._settings["epochs"],
            **facts,
        )
        if not self._engine.resumed:
            self._begin()

    def _begin(self) -> None:
        if self._write_beginning is not None:
            self._write_beginning()
            self._write_beginning = None

    def epoch(self, epoch: Epoch) -> None:
        """Notes the epoch, and its evaluation where it is the best."""
        if dist.get_rank() != 0:
            return
        self._begin()
        facts: dict[str, Any] = {"epoch": epoch.number}
        if epoch.is_best and epoch.evaluation is not None:
            facts["best"] = {
                "epoch": epoch.number,
                "metric": epoch.evaluation.metric,
                "mode": self._engine.best_by.mode,
                "value": epoch.evaluation.value,
                "pictures": epoch.evaluation.images,
            }
            if epoch.evaluation.thresholds is not None:
                facts[KEY] = copy.deepcopy(self._checkpoints.facts[KEY])  # the next evaluation has others
        self._record.write(**facts)

    def finish(self, stopped: str | None = None) -> None:
        """Writes that the training is finished, and why where it has stopped early."""
        if dist.get_rank() == 0 and self._write_beginning is None:
            self._record.write(finished=True, stopped=stopped)


def typed_command() -> str:
    """The command line of this process, as it can be typed again."""
    program = Path(sys.argv[0])
    if program.name == "__main__.py":
        return shlex.join(["python", "-m", program.parent.name, *sys.argv[1:]])
    name = ["python", sys.argv[0]] if program.suffix == ".py" else [program.name]
    return shlex.join([*name, *sys.argv[1:]])
