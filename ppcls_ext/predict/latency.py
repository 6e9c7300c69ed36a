"""Latency of calls, measured in turns so that other load on the machine affects all of them alike."""

from __future__ import annotations

import dataclasses
import itertools
import platform
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ppcls_ext import cpu
from ppcls_ext.data.image_input import network_input
from ppcls_ext.data.image_rule import size_text
from ppcls_ext.predict.classifier import Classifier
from ppcls_ext.predict.runtimes import ExportedModel, runtime_for
from ppcls_ext.predict.tflite_model import TfliteModel

WARM_UP = 5


@dataclass(frozen=True)
class Latency:
    """The latency of one call.

    Attributes:
        median: ms.
        low: the first decile, ms.
        high: the ninth decile, ms.
        ratio: median of the ratios to the first call of the same turn.
    """

    median: float
    low: float
    high: float
    ratio: float


def measure(calls: Mapping[str, Callable[[], object]], turns: int) -> dict[str, Latency]:
    """Measures calls.

    Args:
        calls: the calls by name.
        turns: how often each is called, in turns, after `WARM_UP` turns that do not count.

    Returns:
        The latency of each call, by name.
    """
    times: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(WARM_UP + turns):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            if turn >= WARM_UP:
                times[name].append((time.perf_counter() - start) * 1e3)
    first = next(iter(times.values()))
    return {
        name: Latency(
            median=statistics.median(taken),
            low=sorted(taken)[len(taken) // 10],
            high=sorted(taken)[-1 - len(taken) // 10],
            ratio=statistics.median(mine / reference for mine, reference in zip(taken, first)),
        )
        for name, taken in times.items()
    }


def measure_files(
    model: str,
    files: Mapping[str, Path],
    runtimes: Sequence[str],
    threads: int,
    turns: int,
    convert: Callable[[Path, str], Path] | None = None,
) -> Iterator[dict[str, Any]]:
    """Measures exported files; all of them and all runtimes take turns.

    Args:
        model: name of the model, for the rows.
        files: the files by form.
        runtimes: names of runtimes; "-bf16" behind one computes in bfloat16. A file for phones has its own.
        threads: number of threads of one operation.
        turns: see `measure`.
        convert: makes of a file, for the name of a runtime, the one that it runs.

    Yields:
        One row per file and runtime: model, form, runtime, threads, px, and the fields of `Latency`.
    """
    calls: dict[str, Callable[[], object]] = {}
    sizes = {}
    for (form, path), wanted in itertools.product(files.items(), runtimes):
        name, _, precision = wanted.partition("-")
        if convert is not None:
            path = convert(path, name)
        if name == "onnxruntime":  # the usual one, which gives way to a file's own
            name = wanted = runtime_for(path)
        classifier = Classifier(path, threads, name, precision == "bf16")
        shape = classifier.network.image_shape
        # of grey levels, as some files take pixels
        levels = np.random.default_rng(0).integers(0, 256, (*shape[1:], shape[0]), dtype=np.uint8)
        rule = dataclasses.replace(classifier.metadata.preprocessing, resize_short=None, resize=(shape[2], shape[1]))
        image = np.stack([network_input(levels, dataclasses.replace(rule, crop=None))] * (classifier.batch or 1))
        calls[f"{form} {wanted}"] = call_of(classifier.network, image)
        sizes[f"{form} {wanted}"] = shape[-1] if shape[-1] == shape[-2] else size_text(*shape[1:])
    for key, latency in measure(calls, turns).items():
        form, runtime = key.split(" ")
        described = {"model": model, "form": form, "runtime": runtime, "threads": threads, "px": sizes[key]}
        yield {**described, **{name: round(value, 4) for name, value in dataclasses.asdict(latency).items()}}


def call_of(network: ExportedModel, images: np.ndarray) -> Callable[[], object]:
    """Returns the call to time: of a file that takes pixels without making them of `images`, which no app does."""
    if isinstance(network, TfliteModel):
        return partial(network.compute, network.prepared(images))
    return partial(network.run, images)


def machine() -> str:
    """Returns the names of the processor and the operating system."""
    return f"{cpu.name()}, {platform.system()}"
