"""A configuration tried out: its files found and counted, a batch decoded, a step timed; nothing is written."""

from __future__ import annotations

import contextlib
import copy
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

from ppcls_ext.configuration.image_lists import read_lists
from ppcls_ext.configuration.prepare import prepare
from ppcls_ext.doctor.finding import Finding, look
from ppcls_ext.engine.start import set_up
from ppcls_ext.errors import PpclsExtError

STEPS = 4  # the first one builds what the others use


def look_at(config: dict) -> Iterator[Finding]:
    """The findings about a training with this configuration; each needs the ones before it.

    Args:
        config: what `load_config` returned.
    """
    config.setdefault("profiler_options", None)
    prepared: list[dict] = []
    engines: list[Any] = []
    with tempfile.TemporaryDirectory(prefix="ppcls-ext-doctor-") as folder:
        checks: dict[str, Callable[[], Finding]] = {
            "data": lambda: _data(config, prepared),
            "model": lambda: _model(config, folder, engines),
            "one batch": lambda: _batch(engines[0]),
            "one step": lambda: _step(engines[0]),
        }
        for name, check in checks.items():
            finding = look(name, check)
            yield finding
            if finding.advice:
                return


def _data(config: dict, prepared: list[dict]) -> Finding:
    """All that the configuration names is there: lists, pictures, weights, folders."""
    try:
        set_up()
        prepared.append(prepare(copy.deepcopy(config), "train"))
    except PpclsExtError as error:
        return Finding("data", "the configuration cannot be trained", str(error))
    counts = [
        f"{loader} {len(entries)} pictures of {len({entry.label for entry in entries})} classes"
        for loader, entries in read_lists(config, "train").items()
    ]
    return Finding("data", ", ".join(counts) or "found (it has no plain image lists to count)")


def _model(config: dict, folder: str, engines: list[Any]) -> Finding:
    """The engine with its model, random weights and the data."""
    config = copy.deepcopy(config)
    config["Global"].update(output_dir=folder, pretrained_model=None, checkpoints=None, eval_during_train=False)
    config["Arch"].pop("pretrained", None)
    if isinstance(config.get("Recipe"), dict):
        config["Recipe"].pop("unfuse", None)
    from ppcls_ext.engine.engine import Engine

    with _silence():
        engines.append(Engine(prepare(config, "train"), "train"))
    count = sum(parameter.size for parameter in engines[0].model.parameters() if parameter.trainable)
    device = engines[0].config["Global"]["device"]
    return Finding("model", f"{config['Arch']['name']}, {count / 1e6:.2f} M parameters, on the {device}")


def _batch(engine: Any) -> Finding:
    """One training batch, decoded and augmented."""
    start = time.perf_counter()
    with _silence():
        batch = next(iter(engine.train_dataloader))
    seconds = time.perf_counter() - start
    number, _, height, width = batch[0].shape
    return Finding("one batch", f"{seconds:.2f} s for {number} pictures of {width} × {height} px")


def _step(engine: Any) -> Finding:
    """Training steps as PaddleClas's engine does them, ended after a few."""
    ends: list[float] = []
    wanted = min(STEPS, len(engine.train_dataloader))
    if not wanted:
        advice = "there are fewer pictures than a batch takes: make DataLoader.Train.sampler.batch_size smaller"
        return Finding("one step", "an epoch has none", advice)
    for name in ("step", "minimize"):  # PaddleClas 2.4 calls minimize where it uses AMP
        setattr(engine.optimizer[-1], name, _counted(getattr(engine.optimizer[-1], name), ends, wanted))
    start = time.perf_counter()
    with _silence(), contextlib.suppress(_EnoughError):
        engine.train()
    if not ends:
        return Finding("one step", "the engine made no step", "train with -v to see why")
    seconds = ends[-1] - ends[-2] if len(ends) > 1 else ends[0] - start
    steps = len(engine.train_dataloader)
    return Finding("one step", f"{seconds:.2f} s; {steps} steps are an epoch, about {_duration(seconds * steps)}")


class _EnoughError(Exception):
    """Ends the trial from inside the engine."""


def _counted(update: Callable, ends: list[float], wanted: int) -> Callable:
    def counted(*args: Any, **kwargs: Any) -> Any:
        result = update(*args, **kwargs)
        ends.append(time.perf_counter())
        if len(ends) >= wanted:
            raise _EnoughError
        return result

    return counted


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Nothing that the engine or Paddle's C++ prints comes through; exceptions do."""
    streams = (sys.stdout, sys.stderr)
    for stream in streams:
        stream.flush()
    kept = [os.dup(number) for number in (1, 2)]
    nothing = os.open(os.devnull, os.O_WRONLY)
    try:
        for number in (1, 2):
            os.dup2(nothing, number)
        yield
    finally:
        for stream in streams:
            stream.flush()
        for number, copy_of in zip((1, 2), kept):
            os.dup2(copy_of, number)
            os.close(copy_of)
        os.close(nothing)
