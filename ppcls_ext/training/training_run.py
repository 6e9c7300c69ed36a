"""One training as a run: its record is kept, it may stop early, and one that is finished says so."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from typing import Any

import paddle
import paddle.distributed as dist

from ppcls_ext.config.folder import Record
from ppcls_ext.config.trained_with import KEY, describe
from ppcls_ext.training.early_stopping import EarlyStopping
from ppcls_ext.training.epochs import Epoch
from ppcls_ext.weights.manifest import manifest_path, read_manifest


class TrainingRun:
    """The run of an engine in its mode "train".

    Args:
        engine: ours, built.

    Attributes:
        record: what run.json holds and will hold.
        facts: for the manifests of the checkpoints: what weights are trained with.
    """

    def __init__(self, engine: Any) -> None:
        self._engine = engine
        self._settings = engine.config["Global"]
        self._patience = self._settings.get("patience")
        self.record = Record(engine.folder)
        self.facts = {KEY: describe(engine.resolved)}

    def finished(self) -> str | None:
        """Where a checkpoint is given that needs no more epochs: that, in words, and how to go on."""
        checkpoint = self._settings["checkpoints"]
        if checkpoint is None or not manifest_path(Path(checkpoint)).is_file():
            return None
        done, wanted = read_manifest(Path(checkpoint)).state["epoch"], self._settings["epochs"]
        folder = self._engine.folder
        if done >= wanted:
            return (
                f"{folder} is finished: {done} of {wanted} epochs are trained; to train longer: "
                f"-o Global.epochs={2 * done}"
            )
        best, _ = self.record.best
        if self._patience and best and done - best >= self._patience and self.record.facts.get("stopped"):
            return f"{folder} is finished: {self.record.facts['stopped']}; to go on: --patience {2 * self._patience}"
        return None

    def begin(self, seed: int) -> None:
        """Writes the beginning of the record and observes the epochs.

        Args:
            seed: from which the epochs' random numbers are drawn.
        """
        engine = self._engine
        resumed = self._settings["checkpoints"] is not None
        if dist.get_rank() == 0:
            self.record.begin(
                engine.resolved,
                typed_command(),
                resumed=resumed,
                seed=seed,
                device=paddle.device.get_device(),
                processes=dist.get_world_size(),
                threads=os.environ.get("OMP_NUM_THREADS"),
                epochs=self._settings["epochs"],
                **self.facts,
            )
            engine.epochs.observers.insert(0, self._observe)
        if self._patience:
            best = self.record.best if resumed else ()  # only the first process has begun the record anew
            engine.epochs.observers.append(EarlyStopping(self._patience, *best))

    def end(self, stopped: str | None = None) -> None:
        """Writes that the training is finished, and why where it has stopped early."""
        if dist.get_rank() == 0:
            self.record.write(finished=True, stopped=stopped)

    def _observe(self, epoch: Epoch) -> None:
        facts: dict[str, Any] = {"epoch": epoch.number}
        if epoch.is_best and epoch.evaluation is not None:
            value, (since, before) = epoch.evaluation.value, self.record.best
            facts["best"] = {
                "epoch": epoch.number,
                "since": epoch.number if value > before else since,
                "metric": epoch.evaluation.metric,
                "value": value,
                "pictures": epoch.evaluation.pictures,
            }
        self.record.write(**facts)


def typed_command() -> str:
    """The command line of this process, as it can be typed again."""
    program = Path(sys.argv[0])
    if program.name == "__main__.py":
        return shlex.join(["python", "-m", program.parent.name, *sys.argv[1:]])
    name = ["python", sys.argv[0]] if program.suffix == ".py" else [program.name]
    return shlex.join([*name, *sys.argv[1:]])
