"""Latency of calls, measured in turns so that other load on the machine affects all of them alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

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
