"""Calibration: what the values inside a graph are like on images, and which range their eight bits should cover."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx

from ppcls_ext.export.graph import Graph, channel_axes, run_piece
from ppcls_ext.export.rounding import Moments

BINS = 4096
#: Candidate ranges, as parts of the largest value.
CANDIDATES = np.linspace(0.1, 1.0, 91)
LEVELS = 255
#: Called after each batch with the number of its images.
Progress = Callable[[int], object]
_FLOAT = onnx.TensorProto.FLOAT


@dataclass
class Histogram:
    """A histogram of a value's elements.

    Args:
        low: lower edge of the first bin; 0 or below.
        high: upper edge of the last bin; 0 or above.
    """

    low: float
    high: float

    def __post_init__(self) -> None:
        self.low, self.high = min(float(self.low), 0.0), max(float(self.high), 0.0)
        if self.low == self.high:
            self.high = 1.0  # all zeros: any range will do
        self.counts = np.zeros(BINS)

    def add(self, values: np.ndarray) -> None:
        """Counts all elements of an array."""
        bins = ((values.ravel() - self.low) * np.float32(BINS / (self.high - self.low))).astype(np.int32)
        self.counts += np.bincount(bins.clip(0, BINS - 1), minlength=BINS)

    def range(self) -> tuple[float, float]:
        """Returns the (low, high) of the least squared error; each side that has values is searched in turn."""
        low, high = self.low, self.high
        for _ in range(2 if low < 0 < high else 1):
            if high > 0:
                high = min((self.error(low, part * self.high), part * self.high) for part in CANDIDATES)[1]
            if low < 0:
                low = min((self.error(part * self.low, high), part * self.low) for part in CANDIDATES)[1]
        return low, high

    def error(self, low: float, high: float) -> float:
        """Returns the sum of squared errors when [low, high] gets 256 levels, one of them 0."""
        scale, zero = scale_and_zero(low, high)
        centres = self.low + (np.arange(BINS) + 0.5) * ((self.high - self.low) / BINS)
        levels = np.clip(np.rint(centres / scale) + zero, 0, LEVELS)
        return float(self.counts @ ((levels - zero) * scale - centres) ** 2)


def scale_and_zero(low: float, high: float) -> tuple[np.float32, np.uint8]:
    """Returns the scale and zero point of uint8 for the range [low, high], which contains 0."""
    scale = np.float32((high - low) / LEVELS)
    return scale, np.uint8(np.clip(np.rint(-low / scale), 0, LEVELS))


@dataclass
class Limits:
    """The least and the largest value of each channel (C,)."""

    low: np.ndarray
    high: np.ndarray

    def reach(self) -> np.ndarray:
        """Returns the largest magnitude of each channel (C,)."""
        return np.maximum(-self.low, self.high)


def measure_limits(graph: Graph, images: np.ndarray, values: Sequence[str], progress: Progress) -> dict[str, Limits]:
    """Runs the graph once and returns the limits of each of `values`.

    Args:
        graph: fp32.
        images: (N, 3, H, W).
        values: names of values.
        progress: called after each batch.
    """
    found: dict[str, Limits] = {}
    for arrays in _run(graph, images, values):
        for name, array in zip(values, arrays):
            axes = channel_axes(array)
            low, high = array.min(axis=axes), array.max(axis=axes)
            limits = found.setdefault(name, Limits(low, high))
            limits.low, limits.high = np.minimum(limits.low, low), np.maximum(limits.high, high)
        progress(len(arrays[0]))
    return found


def measure_histograms(
    graph: Graph,
    images: np.ndarray,
    histograms: Mapping[str, Histogram],
    moments: Sequence[Moments],
    means_of: Sequence[str],
    progress: Progress,
) -> dict[str, np.ndarray]:
    """Runs the graph once and fills `histograms` (by value) and `moments`.

    Returns:
        The mean of each channel (C,) of each value in `means_of`.
    """
    values = list(dict.fromkeys([*histograms, *(moment.node.input[0] for moment in moments), *means_of]))
    means = {name: np.zeros(()) for name in means_of}
    for arrays in _run(graph, images, values):
        found = dict(zip(values, arrays))
        for moment in moments:
            moment.add(found[moment.node.input[0]])
        for name, array in found.items():
            if name in histograms:
                histograms[name].add(array)
            if name in means:
                means[name] = means[name] + channel_means(array) * (len(array) / len(images))
        progress(len(arrays[0]))
    return means


def channel_means(array: np.ndarray) -> np.ndarray:
    """Returns the mean of each channel: (N, C, …) → (C,) float64."""
    return array.reshape(*array.shape[:2], -1).mean(axis=2, dtype=np.float32).mean(axis=0, dtype=np.float64)


def _run(graph: Graph, images: np.ndarray, values: Sequence[str]) -> Iterator[list[np.ndarray]]:
    given = [value for value in values if value != graph.input]
    piece = graph.piece({graph.input: _FLOAT}, given)
    start = 0
    for arrays in run_piece(piece, {graph.input: images}, given):
        made = dict(zip(given, arrays))
        made[graph.input] = images[start : start + len(arrays[0])]
        start += len(arrays[0])
        yield [made[value] for value in values]
