"""PaddleClas's own log, train.log and eval.log, its VisualDL curves, and the averages that stand in them."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any


def as_number(value: Any) -> float:
    """A tensor of one element, or a number, as a float."""
    return float(value.item()) if hasattr(value, "item") else float(value)


class Averages:
    """The averages of losses and metrics over images, as PaddleClas's meters.

    Args:
        meters: by name; `add` fills it.
    """

    def __init__(self, meters: dict[str, Any]) -> None:
        from ppcls.utils.misc import AverageMeter

        self._new, self.meters = AverageMeter, meters

    def add(self, values: Mapping[str, Any], count: int) -> None:
        """Takes in the averages over `count` images."""
        for name, value in values.items():
            if name not in self.meters:
                self.meters[name] = self._new(name, "7.5f")
            self.meters[name].update(as_number(value), count)

    def average(self, name: str) -> float | None:
        """An average; None where there is nothing of this name."""
        return float(self.meters[name].avg) if name in self.meters else None


class Times:
    """How long the batches of an epoch take to read and to compute, as PaddleClas's meters."""

    def __init__(self) -> None:
        from ppcls.utils.misc import AverageMeter

        self.meters = {name: AverageMeter(name, ".5f", postfix=" s,") for name in ("batch_cost", "reader_cost")}
        self._start = time.time()

    def read(self, step: int) -> float:
        """A batch is read, in so many seconds; the first five do not count."""
        if step == 5:
            for meter in self.meters.values():
                meter.reset()
        seconds = time.time() - self._start
        self.meters["reader_cost"].update(seconds)
        return seconds

    def computed(self) -> None:
        """It is computed, too."""
        self.meters["batch_cost"].update(time.time() - self._start)

    def restart(self) -> None:
        """The next batch begins."""
        self._start = time.time()

    def __str__(self) -> str:
        return "s, ".join(f"{name}: {meter.avg:.5f}" for name, meter in self.meters.items())


class EpochLog:
    """The lines of one epoch of a training.

    Args:
        engine: ours, built in its mode "train".
        number: of the epoch.
    """

    def __init__(self, engine: Any, number: int) -> None:
        self._engine, self._number, self._step = engine, number, 0
        self._averages, self._times = Averages({}), Times()
        self.waiting = 0.0  # seconds until the batches were read
        # where PaddleClas's functions look for them
        engine.output_info, engine.time_info = self._averages.meters, self._times.meters

    def average(self, name: str) -> float:
        """An average so far; NaN where there is nothing of this name."""
        average = self._averages.average(name)
        return float("nan") if average is None else average

    def read(self) -> None:
        """A batch is read."""
        from ppcls.utils import profiler

        profiler.add_profiler_step(self._engine.config["profiler_options"])
        self.waiting += self._times.read(self._step)
        self._engine.global_step += 1

    def trained(self, step: int, images: int, metrics: Mapping[str, Any], losses: Mapping[str, Any]) -> None:
        """A step is done, counted from 1."""
        from ppcls.engine.train.utils import log_info

        self._averages.add(metrics, images)
        self._averages.add(losses, images)
        self._times.computed()
        if (step - 1) % self._engine.config["Global"]["print_batch_step"] == 0:
            log_info(self._engine, images, self._number, step - 1)
        self._step = step
        self._times.restart()

    def end(self) -> dict[str, float]:
        """Logs the averages of the epoch and gives them."""
        from ppcls.utils import logger

        text = ", ".join(meter.avg_info for meter in self._averages.meters.values())
        logger.info(f"[Train][Epoch {self._number}/{self._engine.epochs}][Avg]{text}")
        return {name: float(meter.avg) for name, meter in self._averages.meters.items()}


class EvaluationLog(Averages):
    """The lines of one evaluation.

    Args:
        engine: ours, built in its mode "train" or "eval".
        number: of the epoch.
    """

    def __init__(self, engine: Any, number: int) -> None:
        super().__init__({})
        self._engine, self._number, self._step, self._times = engine, number, 0, Times()
        kinds = engine.config["Metric"]["Eval"][0]
        self._attributes, self._at_the_end = "ATTRMetric" in kinds, "MultiLabelMAP" in kinds

    def read(self) -> None:
        """A batch is read."""
        self._times.read(self._step)

    def step(self, step: int, images: int) -> None:
        """A batch of so many images on this process is done, counted from 0."""
        from ppcls.utils import logger

        self._times.computed()
        if step % self._engine.config["Global"]["print_batch_step"] == 0:
            parts = [f"{name}: {meter.val:.5f}" for name, meter in self.meters.items()]
            if not (self._attributes or self._at_the_end):
                parts.append(self._engine.eval_metric_func.avg_info)
            speed = images / self._times.meters["batch_cost"].avg
            place = f"[Eval][Epoch {self._number}][Iter: {step}/{len(self._engine.eval_dataloader)}]"
            logger.info(f"{place}{', '.join(parts)}, {self._times}s, ips: {speed:.5f} images/sec")
        self._step = step + 1
        self._times.restart()

    def end(self) -> float:
        """Logs the averages; gives the first metric."""
        from ppcls.utils import logger

        metrics = self._engine.eval_metric_func
        if self._attributes:
            names = ["ma", "label_f1", "label_pos_recall", "label_neg_recall"]
            names += ["instance_f1", "instance_acc", "instance_prec", "instance_recall"]
            results = metrics.attr_res()
            text = "evalres: " + " ".join(f"{name}: {value:.5f}" for name, value in zip(names, results))
        else:
            text = ", ".join([*(f"{name}: {meter.avg:.5f}" for name, meter in self.meters.items()), metrics.avg_info])
        logger.info(f"[Eval][Epoch {self._number}][Avg]{text}")
        return results[0] if self._attributes else metrics.avg
