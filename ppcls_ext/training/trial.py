"""A trial of a training: a few real steps in another folder, of which nothing is kept.

`ppcls-ext doctor` says by it whether a training works and what it costs, and `--budget` how many epochs fit.
"""

from __future__ import annotations

import contextlib
import statistics
import time

import paddle

from ppcls_ext.config.settings import RunSettings
from ppcls_ext.hosts.quiet import captured_output
from ppcls_ext.training.engine import Engine
from ppcls_ext.training.evaluation import answers_to
from ppcls_ext.training.first_batch import as_before, first_batch_of
from ppcls_ext.training.observers import Batch, Observer
from ppcls_ext.training.precise_statistics import batches_wanted, compute_statistics


class Trial(Observer):
    """A training with random weights that ends after some steps.

    Args:
        settings: the training's.
        folder: where the trial writes, for the caller to remove.
        steps: the most that it makes; the first one builds what the others use.
        seconds: it makes no further step after this time.

    Attributes:
        engine: ours, in its mode "train".
        reading: seconds that the first batch took, with the start of processes that load images; once it has run.
        shape: of the first batch, (N, C, H, W); None before.

    Raises:
        PpclsExtError: the training cannot be built.
    """

    def __init__(self, settings: RunSettings, folder: str, steps: int, seconds: float = float("inf")) -> None:
        tried = settings.changed("Global", output_dir=folder, pretrained_model=None, checkpoints=None, budget=None)
        tried.config["Arch"].pop("pretrained", None)
        if isinstance(tried.config.get("Recipe"), dict):
            tried.config["Recipe"].pop("unfuse", None)
            if settings.recipe.freeze is not None:  # which random weights would be refused
                del tried.config["Recipe"]["freeze"]
                tried.config["Arch"]["freeze"] = settings.recipe.freeze.stages or True
        with captured_output():
            self.engine = Engine(tried, "train")
        self.engine.observers.append(self)
        self.reading = 0.0
        self.shape: tuple[int, ...] | None = None
        self._wanted, self._seconds = min(steps, len(self.engine.train_dataloader)), seconds
        self._begun = 0.0
        self._ends: list[float] = []

    def run(self) -> None:
        """Makes the steps.

        Raises:
            Exception: whatever the training fails with.
        """
        self._begun = time.perf_counter()
        with captured_output(), contextlib.suppress(_EnoughError):
            self.engine.train()

    def first_batch(self, images: paddle.Tensor, labels: paddle.Tensor) -> None:
        """Notes the first batch."""
        self.reading = self.engine.time_info["reader_cost"].val
        self.shape = tuple(images.shape)

    def batch(self, batch: Batch) -> None:
        """Notes the end of a step, and ends the training where it is time."""
        self._ends.append(time.perf_counter())
        if len(self._ends) >= self._wanted or (len(self._ends) > 2 and self._ends[-1] - self._begun > self._seconds):
            raise _EnoughError

    @property
    def first_step(self) -> float:
        """Seconds of the first step, which builds what the others use, with the reading of its batch."""
        return self._ends[0] - self._begun

    def step_seconds(self) -> float | None:
        """Returns the median time of a step with its batch, without the first; None where there was one alone."""
        if len(self._ends) < 2:
            return None
        return statistics.median(end - start for start, end in zip(self._ends, self._ends[1:]))

    def evaluation_seconds(self) -> float:
        """Estimates by one batch the seconds of an evaluation with all it needs; 0 where a training makes none."""
        engine = self.engine
        if not engine.config["Global"]["eval_during_train"]:
            return 0.0
        loader = engine.eval_dataloader
        with captured_output(), as_before(engine.model), paddle.no_grad():
            start = time.perf_counter()
            batch = first_batch_of(loader, "DataLoader.Eval")
            reading = (time.perf_counter() - start) / max(1, loader.num_workers)
            images, labels = engine.images_and_labels(batch, evaluating=True)
            for _ in range(2):  # the first one builds what the others use
                start = time.perf_counter()
                answers_to(engine, images, labels)
                computing = time.perf_counter() - start
        return len(loader.dataset) / len(images) * (reading + computing) + self._statistics_seconds()

    def _statistics_seconds(self) -> float:
        """Estimates the seconds of `Recipe.precise_statistics` before an evaluation."""
        engine, settings = self.engine, self.engine.settings.recipe.precise_statistics
        if settings is None:
            return 0.0
        loader = engine.train_dataloader
        with captured_output():
            start = time.perf_counter()
            images = paddle.to_tensor(first_batch_of(loader, "DataLoader.Train")[0])
            reading = (time.perf_counter() - start) / max(1, loader.num_workers)
            for _ in range(2):  # the first one builds what the others use
                start = time.perf_counter()
                compute_statistics(engine.network, [images])
                computing = time.perf_counter() - start
        return batches_wanted(loader, len(images), settings.images) * (reading + computing)


class _EnoughError(Exception):
    """Ends a trial from inside the engine."""
