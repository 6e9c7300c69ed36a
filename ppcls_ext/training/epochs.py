"""What each epoch of a training came to, handed to observers: the terminal, the run's record, early stopping, reports.

An observer is a function of one `Epoch`. All are called on every process, in their order, when the epoch's checkpoints
are on the disk; one that raises `TrainingEnds` ends the training there.
"""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import paddle.distributed as dist

from ppcls_ext.training.watched_loader import WatchedLoader


class TrainingEnds(Exception):  # noqa: N818  it is no error
    """Raised by an observer to end the training; the text says why."""


class Evaluation(NamedTuple):
    """One evaluation.

    Attributes:
        metric: the name of the first metric, by which models are compared.
        value: that metric.
        metrics: all of them, and the "loss" where there is one.
        pictures: how many were evaluated; 0 where PaddleClas does not count them.
    """

    metric: str
    value: float
    metrics: dict[str, float]
    pictures: int

    def __str__(self) -> str:
        values = {self.metric: self.value, **self.metrics}
        loss = values.pop("loss", None)
        over = f" over {self.pictures} images" if self.pictures else ""
        text = ", ".join(f"{name} {value:.4f}" for name, value in values.items()) + over
        return text if loss is None else f"{text}, loss {loss:.4f}"


class Batch(NamedTuple):
    """A batch that was just trained on: how many of how many in this epoch, and the epoch's averages so far."""

    epoch: int
    of: int
    done: int
    total: int
    loss: float
    pictures_per_second: float
    seconds: float


class Epoch(NamedTuple):
    """One epoch of a training.

    Attributes:
        number: from 1.
        of: how many there will be.
        seconds: of its training, without the evaluation.
        pictures: trained on, by all processes.
        learning_rate: at its end.
        train: the averages of losses and metrics in training.
        evaluation: None where none was due.
        is_best: whether the evaluation was the best so far.
    """

    number: int
    of: int
    seconds: float
    pictures: int
    learning_rate: float
    train: dict[str, float]
    evaluation: Evaluation | None
    is_best: bool


class Epochs:
    """Follows the epochs of an engine.

    Args:
        engine: PaddleClas's, built, in its mode "train".

    Attributes:
        observers: called with each `Epoch`.
        batch_observers: called with each `Batch`.
        begin_observers, end_observers: called without arguments before the first epoch, and when the training is over.
    """

    def __init__(self, engine: Any) -> None:
        self._engine = engine
        self.observers: list[Callable[[Epoch], None]] = []
        self.batch_observers: list[Callable[[Batch], None]] = []
        self.begin_observers: list[Callable[[], None]] = []
        self.end_observers: list[Callable[[], None]] = []
        self._number, self._done, self._pictures = 0, 0, 0
        self._in_training: int | None = None  # pictures of the batch that is trained on
        engine.train_dataloader = WatchedLoader(engine.train_dataloader, self._begin_batch)
        train_epoch = engine.train_epoch_func

        @functools.wraps(train_epoch)
        def train_followed_epoch(engine: Any, epoch_id: int, *args: Any) -> None:
            self._begin(epoch_id)
            train_epoch(engine, epoch_id, *args)
            self._end()

        engine.train_epoch_func = train_followed_epoch

    @property
    def _of(self) -> int:
        return self._engine.config["Global"]["epochs"]

    @property
    def place(self) -> str:
        """Where the training is: epoch and batch, both from 1."""
        batch = "" if self._in_training is None else f", batch {self._done + 1}"
        return f"epoch {self._number}{batch}"

    @contextlib.contextmanager
    def aside(self) -> Iterator[None]:
        """What is inside takes no time of the training's."""
        start = time.monotonic()
        try:
            yield
        finally:
            self._start += time.monotonic() - start

    def evaluated(self, evaluation: Evaluation) -> None:
        """To be called with each evaluation."""
        self._evaluation = evaluation

    def saved(self, prefix: str) -> None:
        """To be called when the checkpoint `prefix` is on the disk; "latest" is the last of an epoch."""
        if prefix == "best_model":
            self._is_best = True
        elif prefix == "latest":
            rate = float(self._engine.lr_sch[0].get_lr()) if self._engine.lr_sch else float("nan")
            pictures = self._pictures * dist.get_world_size()
            facts = (self._seconds, pictures, rate, self._train, self._evaluation, self._is_best)
            epoch = Epoch(self._number, self._of, *facts)
            for observer in self.observers:
                observer(epoch)

    def begun(self) -> None:
        """To be called when all is ready for the first epoch."""
        for observer in self.begin_observers:
            observer()

    def ended(self) -> None:
        """To be called when the training is over."""
        for observer in self.end_observers:
            observer()

    def _begin(self, number: int) -> None:
        self._number, self._done, self._pictures, self._in_training = number, 0, 0, None
        self._evaluation: Evaluation | None = None
        self._is_best = False
        self._start = time.monotonic()

    def _end(self) -> None:
        self._end_batch()
        self._seconds = time.monotonic() - self._start
        self._train = {name: float(meter.avg) for name, meter in self._engine.output_info.items()}

    def _begin_batch(self, batch: Any) -> None:
        self._end_batch()
        self._in_training = _length(batch)

    def _end_batch(self) -> None:
        """The batch before is trained on: seen where the next one comes, or the epoch ends."""
        if self._in_training is None:
            return
        self._done += 1
        self._pictures += self._in_training
        self._in_training = None
        if self.batch_observers:
            seconds = time.monotonic() - self._start
            meter = self._engine.output_info.get("loss")
            loss = float(meter.avg) if meter else float("nan")
            speed = self._pictures * dist.get_world_size() / max(seconds, 1e-9)
            total = getattr(self._engine, "iter_per_epoch", None) or len(self._engine.train_dataloader)
            for observer in self.batch_observers:
                observer(Batch(self._number, self._of, self._done, total, loss, speed, seconds))


class AveragedLoss:
    """A loss of PaddleClas's that also remembers its average, which PaddleClas only logs.

    Args:
        loss: called with (outputs, labels), returns a dict with a "loss".
    """

    def __init__(self, loss: Callable) -> None:
        self._loss = loss
        self.reset()

    def reset(self) -> None:
        """Starts anew."""
        self._sum, self._count = 0.0, 0

    @property
    def average(self) -> float | None:
        """Over all pictures since `reset`; None where there were none."""
        return self._sum / self._count if self._count else None

    def __call__(self, outputs: Any, labels: Any) -> dict:
        """Computes the losses of a batch."""
        losses = self._loss(outputs, labels)
        if "loss" in losses:
            self._sum += losses["loss"].item() * len(labels)
            self._count += len(labels)
        return losses

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loss, name)


def _length(batch: Any) -> int:
    try:
        return int(batch[0].shape[0])
    except (AttributeError, KeyError, TypeError):
        return 0  # DALI's batches
