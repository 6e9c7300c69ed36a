"""Calibration: what the values inside a graph are like on images, and what follows for ranges and weights.

The eight bits of a value cover the range of least squared error over its histogram. Weights are rounded so that their
errors cancel on the inputs that a layer really has (GPTQ, arXiv 2210.17323): neighbouring pixels and channels behind a
ReLU are correlated, so errors that sum to nothing cost far less than those of rounding each weight by itself. The
weights that are still to be rounded compensate each weight's error, by the second moments of the inputs. Moments are
taken about the mean, whose part is left to the bias.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx

from ppcls_ext.export.graph import Graph, attribute, attributes, channel_axes, output_axis, run_piece

BINS = 4096
#: Candidate ranges, as parts of the largest value.
CANDIDATES = np.linspace(0.1, 1.0, 91)
LEVELS = 255
#: Called after each batch with the number of its images.
Progress = Callable[[int], object]
_FLOAT = onnx.TensorProto.FLOAT
LARGEST_WEIGHT = 127
#: Part of the mean variance that is added to every variance: few images give only a rough estimate of the moments.
DAMPING = 0.01
#: Input positions of a layer that its moments are taken from, and the fewest for each of its weights.
SAMPLES, SAMPLES_PER_WEIGHT = 4096, 4
BLOCK = 128


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


class Moments:
    """Means and second moments of the inputs that a weighted node multiplies its weights with.

    Args:
        node: Conv or Gemm.
        weight: its weights.
        images: number of images that will be added.
        seed: of the random choice of positions.
    """

    def __init__(self, node: onnx.NodeProto, weight: np.ndarray, images: int, seed: int = 0) -> None:
        self.node, self.kernel = node, weight.shape[2:]
        groups, _, size = grouped(node, weight).shape
        self.per_image = -(-max(SAMPLES, SAMPLES_PER_WEIGHT * size) // images)
        self.random = np.random.default_rng(seed)
        self.count = 0
        #: A rough mean of the inputs: sums of squares would drown a small variance about a large mean.
        self.reference: np.ndarray | None = None
        self.sum = np.zeros((groups, size))
        self.products = np.zeros((groups, size, size))

    def add(self, array: np.ndarray) -> None:
        """Adds inputs (N, C, …) at random output positions."""
        groups = len(self.sum)
        samples = self._patches(array) if self.kernel else array[:, :, None, None]
        samples = samples.reshape(len(samples), groups, -1).transpose(1, 0, 2)
        if self.reference is None:
            self.reference = samples.mean(axis=1, keepdims=True)
        samples = samples - self.reference
        self.count += samples.shape[1]
        self.sum += samples.sum(axis=1)
        self.products += samples.transpose(0, 2, 1) @ samples

    def covariance(self) -> np.ndarray:
        """Returns (groups, weights of one output, the same); a variance of 0 stays 0 in spite of float32's rounding."""
        if self.reference is None:
            raise ValueError("no inputs were added")
        mean = self.sum / self.count
        covariance = self.products / self.count - mean[:, :, None] * mean[:, None, :]
        noise = np.square(self.reference * np.finfo(np.float32).eps).mean(axis=(1, 2))
        quiet = np.einsum("gii->gi", covariance).mean(axis=1) <= 100 * noise
        return np.where(quiet[:, None, None], 0.0, covariance)

    def _patches(self, array: np.ndarray) -> np.ndarray:
        """Returns inputs at random output positions: (samples, C, k, k)."""
        pads = attributes(self.node, "pads", [0] * 4)
        strides, dilations = (attributes(self.node, name, [1, 1]) for name in ("strides", "dilations"))
        padded = np.pad(array, ((0, 0), (0, 0), (pads[0], pads[2]), (pads[1], pads[3])))
        reach = [dilation * (side - 1) + 1 for dilation, side in zip(dilations, self.kernel)]
        places = [(side - far) // stride + 1 for side, far, stride in zip(padded.shape[2:], reach, strides)]
        count = len(array) * min(self.per_image, places[0] * places[1])
        image = self.random.integers(len(array), size=count)[:, None, None]
        rows, columns = (
            self.random.integers(place, size=count)[:, None] * stride + dilation * np.arange(side)
            for place, stride, dilation, side in zip(places, strides, dilations, self.kernel)
        )
        return padded[image, :, rows[:, :, None], columns[:, None, :]].transpose(0, 3, 1, 2)


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


def grouped(node: onnx.NodeProto, weight: np.ndarray) -> np.ndarray:
    """Returns weights as (groups, outputs of a group, weights of one output)."""
    if node.op_type == "Gemm":
        weight = weight.T if output_axis(node) else weight
    groups = attribute(node, "group", 1)
    return weight.reshape(groups, weight.shape[0] // groups, -1)


def round_weights(node: onnx.NodeProto, weight: np.ndarray, scales: np.ndarray, covariance: np.ndarray) -> np.ndarray:
    """Returns the levels, int8, in the weights' shape.

    Args:
        node: Conv or Gemm.
        weight: fp32.
        scales: of one level, (outputs,).
        covariance: `Moments.covariance()`.
    """
    split = grouped(node, weight).astype(np.float64)
    levels = _round(split / scales.reshape(*split.shape[:2], 1), covariance)
    if node.op_type == "Gemm" and output_axis(node):
        return levels.reshape(weight.shape[::-1]).T.astype(np.int8)
    return levels.reshape(weight.shape).astype(np.int8)


def _round(weights: np.ndarray, covariance: np.ndarray) -> np.ndarray:
    """Rounds weights (groups, outputs, size), in units of a level, to whole numbers."""
    size = weights.shape[2]
    diagonal = np.einsum("gii->gi", covariance)
    # what matters most is rounded first, while there is most left to make its error good with
    order = np.argsort(-diagonal, axis=1, kind="stable")
    ordered = np.take_along_axis(np.take_along_axis(covariance, order[:, :, None], 1), order[:, None, :], 2)
    damping = DAMPING * diagonal.mean(axis=1)
    damping = np.where(damping > np.finfo(np.float32).tiny, damping, 1.0)  # inputs that never change
    factor = np.linalg.cholesky(np.linalg.inv(ordered + damping[:, None, None] * np.eye(size)))
    factor = factor.transpose(0, 2, 1)
    rest = np.take_along_axis(weights, order[:, None, :], 2)
    levels = np.empty_like(rest)
    for start in range(0, size, BLOCK):
        stop = min(start + BLOCK, size)
        errors = np.empty((*rest.shape[:2], stop - start))
        for j in range(start, stop):
            levels[:, :, j] = np.rint(rest[:, :, j]).clip(-LARGEST_WEIGHT, LARGEST_WEIGHT)
            errors[:, :, j - start] = error = (rest[:, :, j] - levels[:, :, j]) / factor[:, None, j, j]
            rest[:, :, j + 1 : stop] -= error[:, :, None] * factor[:, None, j, j + 1 : stop]
        rest[:, :, stop:] -= errors @ factor[:, start:stop, stop:]
    result = np.empty_like(levels)
    np.put_along_axis(result, np.broadcast_to(order[:, None, :], levels.shape), levels, 2)
    return result
