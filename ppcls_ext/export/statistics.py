"""What the values inside a network are like on pictures: their limits and histograms, the means of weighted outputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx

from ppcls_ext.export.graph import Network, channel_axes, run_piece
from ppcls_ext.export.ranges import Histogram
from ppcls_ext.export.rounding import Moments

#: Told after each group of pictures how many there were.
Progress = Callable[[int], object]
_FLOAT = onnx.TensorProto.FLOAT


@dataclass
class Limits:
    """Least and largest value of each channel (C,)."""

    low: np.ndarray
    high: np.ndarray

    def reach(self) -> np.ndarray:
        """The largest magnitude (C,)."""
        return np.maximum(-self.low, self.high)


def measure_limits(
    network: Network, pictures: np.ndarray, values: Sequence[str], progress: Progress
) -> dict[str, Limits]:
    """Runs the network once; `pictures`: (N, 3, H, W)."""
    found: dict[str, Limits] = {}
    for arrays in _run(network, pictures, values):
        for name, array in zip(values, arrays):
            axes = channel_axes(array)
            low, high = array.min(axis=axes), array.max(axis=axes)
            limits = found.setdefault(name, Limits(low, high))
            limits.low, limits.high = np.minimum(limits.low, low), np.maximum(limits.high, high)
        progress(len(arrays[0]))
    return found


def measure_histograms(
    network: Network,
    pictures: np.ndarray,
    histograms: Mapping[str, Histogram],
    moments: Sequence[Moments],
    means_of: Sequence[str],
    progress: Progress,
) -> dict[str, np.ndarray]:
    """Runs the network once, fills histograms (by value) and moments, returns the means (C,) of `means_of`."""
    values = list(dict.fromkeys([*histograms, *(moment.node.input[0] for moment in moments), *means_of]))
    means = dict.fromkeys(means_of, 0.0)
    for arrays in _run(network, pictures, values):
        found = dict(zip(values, arrays))
        for moment in moments:
            moment.add(found[moment.node.input[0]])
        for name, array in found.items():
            if name in histograms:
                histograms[name].add(array)
            if name in means:
                means[name] = means[name] + channel_means(array) * (len(array) / len(pictures))
        progress(len(arrays[0]))
    return means


def channel_means(array: np.ndarray) -> np.ndarray:
    """(N, C, …) → (C,) float64."""
    return array.reshape(*array.shape[:2], -1).mean(axis=2, dtype=np.float32).mean(axis=0, dtype=np.float64)


def _run(network: Network, pictures: np.ndarray, values: Sequence[str]):  # noqa: ANN202
    given = [value for value in values if value != network.input]
    piece = network.piece({network.input: _FLOAT}, given)
    start = 0
    for arrays in run_piece(piece, {network.input: pictures}, given):
        made = dict(zip(given, arrays))
        made[network.input] = pictures[start : start + len(arrays[0])]
        start += len(arrays[0])
        yield [made[value] for value in values]
