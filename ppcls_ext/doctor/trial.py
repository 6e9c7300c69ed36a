"""A configuration tried out: its files found and counted, a batch decoded, a step timed; nothing is written."""

from __future__ import annotations

import contextlib
import copy
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ppcls_ext.config.lists import read_lists
from ppcls_ext.config.prepare import prepare
from ppcls_ext.config.weights import require_writable
from ppcls_ext.doctor.finding import Finding, look
from ppcls_ext.errors import PpclsExtError
from ppcls_ext.training.start import set_up
from ppcls_ext.weights.folder_lock import release

STEPS = 4  # the first one builds what the others use


def look_at(config: dict) -> Iterator[Finding]:
    """The findings about a training with this configuration; each needs the ones before it.

    Args:
        config: what `load_config` returned.
    """
    config.setdefault("profiler_options", None)
    steps: list[_Steps] = []
    with tempfile.TemporaryDirectory(prefix="ppcls-ext-doctor-") as folder:
        checks: dict[str, Callable[[], Finding]] = {
            "data": lambda: _data(config, folder),
            "model": lambda: _model(config, folder, steps),
            "one batch": lambda: steps[0].batch(),
            "one step": lambda: steps[0].step(),
        }
        try:
            for name, check in checks.items():
                finding = look(name, check)
                yield finding
                if finding.advice:
                    return
        finally:
            release(Path(folder, str(config["Arch"].get("name"))))  # `prepare` holds the folder of a training


def _data(config: dict, folder: str) -> Finding:
    """All that the configuration names is there: lists, pictures, weights, folders."""
    try:
        set_up()
        settings = config["Global"]
        require_writable("Global.output_dir", settings.get("output_dir") or "output")
        tried = {**copy.deepcopy(config), "Global": {**settings, "output_dir": folder, "checkpoints": None}}
        prepare(tried, "train")
    except PpclsExtError as error:
        return Finding("data", "the configuration cannot be trained", str(error))
    counts = [
        f"{loader} {len(entries)} pictures of {len({entry.label for entry in entries})} classes"
        for loader, entries in read_lists(config, "train").items()
    ]
    return Finding("data", ", ".join(counts) or "found (it has no plain image lists to count)")


def _model(config: dict, folder: str, steps: list[_Steps]) -> Finding:
    """The engine with its model, random weights and the data."""
    config = copy.deepcopy(config)
    config["Global"].update(output_dir=folder, pretrained_model=None, checkpoints=None, eval_during_train=False)
    config["Arch"].pop("pretrained", None)
    if isinstance(config.get("Recipe"), dict):
        config["Recipe"].pop("unfuse", None)
    from ppcls_ext.training.engine import Engine

    with _silence():
        engine = Engine(prepare(config, "train"), "train")
    steps.append(_Steps(engine))
    count = sum(parameter.size for parameter in engine.model.parameters() if parameter.trainable)
    device = engine.config["Global"]["device"]
    return Finding("model", f"{config['Arch']['name']}, {count / 1e6:.2f} M parameters, on the {device}")


class _Steps:
    """A few training steps as PaddleClas's engine does them; what comes first is looked at first.

    One iterator over the data serves both findings: two at a time would disturb each other.
    """

    def __init__(self, engine: Any) -> None:
        self._engine = engine
        self._wanted = min(STEPS, len(engine.train_dataloader))
        self._ends: list[float] = []
        self._error: Exception | None = None

    def batch(self) -> Finding:
        """One batch, decoded and augmented."""
        if not self._wanted:
            advice = "there are fewer pictures than a batch takes: make DataLoader.Train.sampler.batch_size smaller"
            return Finding("one batch", "an epoch has none", advice)
        optimizer = self._engine.optimizer[-1]
        for name in ("step", "minimize"):  # PaddleClas 2.4 calls minimize where it uses AMP
            setattr(optimizer, name, self._counted(getattr(optimizer, name)))
        loader = self._engine.train_dataloader = _WatchedLoader(self._engine.train_dataloader)
        with _silence():
            try:
                self._engine.train()
            except _EnoughError:
                pass
            except Exception as error:
                self._error = error
        if loader.shape is None:
            raise self._error or PpclsExtError("the engine asked for none")
        number, _, height, width = loader.shape
        return Finding("one batch", f"{loader.seconds:.2f} s for {number} pictures of {width} × {height} px")

    def step(self) -> Finding:
        """One update of the weights with the waiting for its batch, the median of a few without the first."""
        if self._error is not None:
            raise self._error
        ends, steps = self._ends, len(self._engine.train_dataloader)
        if len(ends) < 2:
            return Finding("one step", "an epoch has one: too few to time")
        seconds = statistics.median(end - start for start, end in zip(ends, ends[1:]))
        return Finding("one step", f"{seconds:.2f} s; {steps} steps are an epoch, about {_duration(seconds * steps)}")

    def _counted(self, update: Callable) -> Callable:
        def counted(*args: Any, **kwargs: Any) -> Any:
            result = update(*args, **kwargs)
            self._ends.append(time.perf_counter())
            if len(self._ends) >= self._wanted:
                raise _EnoughError
            return result

        return counted


class _WatchedLoader:
    """A data loader that notes the shape of its first batch and how long that took, s."""

    def __init__(self, loader: Any) -> None:
        self._loader = loader
        self.seconds, self.shape = 0.0, None

    def __iter__(self) -> Iterator[list]:
        start = time.perf_counter()
        for batch in self._loader:
            if self.shape is None:
                self.seconds, self.shape = time.perf_counter() - start, tuple(batch[0].shape)
            yield batch

    def __len__(self) -> int:
        return len(self._loader)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)


class _EnoughError(Exception):
    """Ends the trial from inside the engine."""


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
