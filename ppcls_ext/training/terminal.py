"""The terminal during a training: PaddleClas's own output goes to the log file, and a summary is shown."""

from __future__ import annotations

import logging
import math
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import paddle
import paddle.distributed as dist
from tqdm import tqdm

from ppcls_ext.errors import PpclsExtError, printable
from ppcls_ext.training.observers import Batch, Epoch, Observer
from ppcls_ext.weights.manifest import read_manifest

#: Lines of PaddleClas's that only concern the training of its own models.
UNASKED = ("The training strategy provided by PaddleClas is based on",)
EVERY = 60.0  # seconds between two lines of a long epoch, where there is no terminal for a bar
ESTIMATED = 10  # steps after which the time of the whole is said
MUCH = 0.2  # of an epoch's time; where more of it goes by in waiting for images, the user hears of it


def quiet_host() -> None:
    """Keeps PaddleClas's own output off the terminal, but for its warnings; its log file holds all of it."""
    from ppcls.utils import logger

    logger.init_logger()  # PaddleClas adds no second handler of this name later
    for handler in logging.getLogger("ppcls").handlers:
        if handler.get_name() == "stream_handler" and isinstance(handler, logging.StreamHandler):
            handler.stream = sys.stderr  # setStream would flush the one before, which may be closed
            handler.setLevel(logging.WARNING)
            handler.setFormatter(_OneLine())
            handler.addFilter(lambda record: not record.getMessage().startswith(UNASKED))


def schedule_of(engine: Any) -> str:
    """Says the epochs of a training, their batches, and by what it learns."""
    config, train = engine.config, engine.train_dataloader
    batch = getattr(getattr(train, "batch_sampler", None), "batch_size", None)
    processes = f" × {dist.get_world_size()} processes" if dist.get_world_size() > 1 else ""
    optimizer = config["Optimizer"]
    names = [optimizer["name"]] if isinstance(optimizer, dict) else [key for item in optimizer for key in item]
    batches = f"{count_of(len(train), 'batch', 'batches')} of {batch}{processes}"
    return f"{count_of(config['Global']['epochs'], 'epoch')} of {batches}, {', '.join(names)}"


class TrainingOnTerminal(Observer):
    """Shows a training: what is trained, a bar, a line an epoch, and what there is in the end.

    Args:
        engine: ours, built in its mode "train".
        quiet: whether to show nothing but the result.
        show_lr: whether to show the learning rate, too.
    """

    def __init__(self, engine: Any, quiet: bool = False, show_lr: bool = False) -> None:
        self._engine, self._quiet, self._show_lr = engine, quiet, show_lr
        self._bar: tqdm | None = None
        self._last_line = 0.0
        self._first_step: float | None = None  # seconds
        self._is_estimated = False
        self._result = ""

    @contextmanager
    def shown(self) -> Iterator[None]:
        """A context in which the training of the engine is shown, on the first process."""
        if dist.get_rank() == 0:
            self._engine.observers.append(self)
        try:
            yield
        finally:
            self._close()

    def begin(self) -> None:
        """Shows what is trained."""
        if not self._quiet:
            _show(self._beginning())

    def end(self) -> None:
        """Shows what there is in the folder, and what to do next; or the result alone."""
        _show(([self._result] if self._result else []) if self._quiet else self._end())

    def _beginning(self) -> list[str]:
        engine, config = self._engine, self._engine.config
        settings, train = config["Global"], engine.train_dataloader
        count = sum(parameter.size for parameter in engine.network.parameters())
        classes = f", {config['Arch']['class_num']} classes" if config["Arch"].get("class_num") else ""
        shape = settings.get("image_shape")
        size = f", {_size(*shape)}" if isinstance(shape, (list, tuple)) and len(shape) == 3 else ""
        evaluated = getattr(engine, "eval_dataloader", None)
        images = f"{len(train.dataset):,} to train on" if hasattr(train, "dataset") else "from DALI"
        if evaluated is not None and hasattr(evaluated, "dataset"):
            images += f", {len(evaluated.dataset):,} to evaluate on"
        threads = os.environ.get("OMP_NUM_THREADS", "")
        device = paddle.device.get_device()
        device += f", {count_of(int(threads), 'thread')}" if threads.isdecimal() and device == "cpu" else ""
        return [
            f"model      {config['Arch']['name']}, {count / 1e6:.1f} million parameters{classes}",
            f"images     {images}{size}",
            f"training   {schedule_of(engine)}, on {device}, {engine.precision}",
            f"folder     {engine.folder}, PaddleClas's output is in train.log",
        ]

    def batch(self, batch: Batch) -> None:
        """Moves the bar; without a terminal, prints a line now and then."""
        if self._quiet:
            return
        self._estimate(batch)
        left = batch.total * (batch.of - batch.epoch + 1) - batch.done
        left_seconds = left * batch.seconds / batch.done
        text = f"loss {batch.loss:.4f}, {batch.images_per_second:.0f} images/s, {duration(left_seconds)} left"
        if self._show_lr:
            text += f", lr {float(self._engine.lr_sch[0].get_lr()):.3g}"
        if batch.waiting > MUCH * batch.seconds and batch.done > 5:  # the first one waits for the loader's start
            waits = f", {batch.waiting / batch.seconds:.0%} "
            text += waits + ("waiting" if sys.stderr.isatty() else "of the time waiting for images")  # 80 columns
        if sys.stderr.isatty():
            if self._bar is None:
                form = "{desc} {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt}{postfix}"
                self._bar = tqdm(total=batch.total, file=sys.stderr, leave=False, bar_format=form, dynamic_ncols=True)
                self._bar.set_description_str(f"epoch {batch.epoch}/{batch.of}")
            self._bar.set_postfix_str(text, refresh=False)
            self._bar.update(batch.done - self._bar.n)
            if batch.done == batch.total:
                self._close()  # an evaluation may show one of its own
        elif batch.seconds - self._last_line >= EVERY:
            self._last_line = batch.seconds
            print(f"epoch {batch.epoch}/{batch.of}, batch {batch.done}/{batch.total}: {text}", flush=True)

    def _estimate(self, batch: Batch) -> None:
        """Says after some steps, once, how long the whole will take; the first step builds what the others use."""
        if self._is_estimated:
            return
        if self._first_step is None:
            self._first_step = batch.seconds
        elif batch.done == ESTIMATED:
            self._is_estimated = True
            step = (batch.seconds - self._first_step) / (ESTIMATED - 1)
            epochs = batch.of - batch.epoch + 1
            whole = f"{duration(step * batch.total * epochs)} for {count_of(epochs, 'epoch')}"
            tqdm.write(f"expected   {whole}, evaluations aside", file=sys.stdout)  # above the bar
            sys.stdout.flush()

    def epoch(self, epoch: Epoch) -> None:
        """Prints the line of the epoch."""
        self._close()
        self._is_estimated = True
        if epoch.is_best:
            self._result = f"epoch {epoch.number}/{epoch.of} is the best: {epoch.evaluation}"
        elif epoch.best is None:
            self._result = f"epoch {epoch.number}/{epoch.of}: loss {epoch.train.get('loss', math.nan):.4f}"
        if self._quiet:
            return
        self._last_line = 0.0
        speed = epoch.images / max(epoch.seconds, 1e-9)
        values = ", ".join(f"{name} {value:.4f}" for name, value in shown_averages(epoch.train).items())
        line = f"epoch {epoch.number}/{epoch.of}: {values}, {speed:.0f} images/s"
        line += f", lr {epoch.learning_rate:.3g}" if self._show_lr else ""
        left = (epoch.of - epoch.number) * epoch.seconds
        line += f", {duration(left)} left" if left else ""
        if epoch.evaluation is not None:
            line += f" | evaluation: {epoch.evaluation}{', best so far' if epoch.is_best else ''}"
        print(printable(line), flush=True)

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def _end(self) -> list[str]:
        folder = self._engine.folder
        sets = {name: _size_of_set(folder, name) for name in ("best_model", "latest")}
        sizes = [f"{name} {size / 1e6:.1f} MB" for name, size in sets.items() if size]
        if not sizes:
            return []
        others = sorted(path.stem for path in folder.glob("epoch_*.json"))
        size = sum(_size_of_set(folder, name) for name in others)
        sizes += [f"{len(others)} others {size / 1e6:.1f} MB"] if others else []
        export = "export-onnx" if self._engine.opened.deployed.arch.is_ours else "export-model"
        return [
            f"kept       {', '.join(sizes)}",
            "next:",
            f"  ppcls-ext eval {folder}",
            f"  ppcls-ext predict {folder} IMAGE…",
            f"  ppcls-ext {export} {folder}",
        ]


def _show(lines: list[str]) -> None:
    for line in lines:
        print(printable(line), flush=True)


def shown_averages(values: dict[str, float]) -> dict[str, float]:
    """The averages of a training without those that repeat the loss under another name."""
    return {name: value for name, value in values.items() if name == "loss" or value != values.get("loss")}


def count_of(number: int, one: str, several: str = "") -> str:
    """A number of things in words: 1 epoch, 2 epochs; `several` where it is not `one` with an s."""
    return f"{number} {one if number == 1 else several or f'{one}s'}"


def _size(channels: int, height: int, width: int) -> str:
    order = "" if height == width else " (width × height)"
    others = "" if channels == 3 else f", {count_of(channels, 'channel')}"
    return f"{width}×{height} px{order}{others}"


def duration(seconds: float) -> str:
    """A time in words: 45 s, 12 min, 3 h 20 min."""
    seconds = round(seconds)
    if seconds < 100:
        return f"{seconds} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"


def _size_of_set(folder: Any, name: str) -> int:
    try:
        return sum(facts["size"] for facts in read_manifest(folder / name).files.values())
    except PpclsExtError:
        return 0


class _OneLine(logging.Formatter):
    """PaddleClas's warnings as this project writes them."""

    def format(self, record: logging.LogRecord) -> str:
        return f"{record.levelname.lower()}: {' '.join(record.getMessage().split())}"
