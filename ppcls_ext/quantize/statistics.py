"""What the values inside a network are like on pictures: their reach and histograms, the means of weighted outputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx

from ppcls_ext.quantize.network import Network, channel_axes, run_piece
from ppcls_ext.quantize.ranges import Histogram
from ppcls_ext.quantize.rounding import Moments

#: Told after each group of pictures how many there were.
Progress = Callable[[int], object]
_FLOAT = onnx.TensorProto.FLOAT


@dataclass
class Reach:
    """How far the channels (C,) of a value reach.

    Args:
        magnitude: mean over the pictures of the largest magnitude in a picture.
        low: least value.
        high: largest value.
    """

    magnitude: np.ndarray
    low: np.ndarray
    high: np.ndarray


def measure_reach(
    network: Network, pictures: np.ndarray, values: Sequence[str], progress: Progress
) -> dict[str, Reach]:
    """Runs the network once; `pictures`: (N, 3, H, W)."""
    found: dict[str, Reach] = {}
    for arrays in _run(network, pictures, values):
        for name, array in zip(values, arrays):
            axes = channel_axes(array)[1:]
            low, high = array.min(axis=axes), array.max(axis=axes)
            magnitude = np.maximum(-low, high).sum(axis=0) / len(pictures)
            reach = found.setdefault(name, Reach(np.zeros_like(magnitude), low[0], high[0]))
            reach.magnitude += magnitude
            reach.low, reach.high = np.minimum(reach.low, low.min(axis=0)), np.maximum(reach.high, high.max(axis=0))
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
