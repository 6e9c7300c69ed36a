"""Rounding weights so that their errors cancel on the inputs that a layer really has (GPTQ, arXiv 2210.17323).

Neighbouring pixels and channels behind a ReLU are correlated, so errors that sum to nothing cost far less than those of
rounding each weight by itself: the weights that are still to be rounded compensate each weight's error, by the second
moments of the inputs. Moments are taken about the mean, whose part is left to the bias.
"""

from __future__ import annotations

import numpy as np
import onnx

from ppcls_ext.export.graph import attribute, attributes, output_axis

LARGEST_WEIGHT = 127
#: Part of the mean variance that is added to every variance: few images give only a rough estimate of the moments.
DAMPING = 0.01
#: Input positions of a layer that its moments are taken from, and the fewest for each of its weights.
SAMPLES, SAMPLES_PER_WEIGHT = 4096, 4
BLOCK = 128


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
        self.per_picture = -(-max(SAMPLES, SAMPLES_PER_WEIGHT * size) // images)
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
        count = len(array) * min(self.per_picture, places[0] * places[1])
        image = self.random.integers(len(array), size=count)[:, None, None]
        rows, columns = (
            self.random.integers(place, size=count)[:, None] * stride + dilation * np.arange(side)
            for place, stride, dilation, side in zip(places, strides, dilations, self.kernel)
        )
        return padded[image, :, rows[:, :, None], columns[:, None, :]].transpose(0, 3, 1, 2)


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
