"""Cross-layer equalization: the channels of one value get similar ranges; the graph computes the same.

ReLU, sums, splits, concatenations, means and the gated product commute with a positive factor per channel, so that a
channel can be divided by s where it is made and multiplied by s where it is read (arXiv 1906.04721). Channels that meet
in a sum share one factor; where anything else reads or makes a channel (GELU, Sigmoid, the input, the logits) it is 1.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx

from ppcls_ext.export.graph import WEIGHTED, Graph, attribute, output_axis

#: Beyond these, factors cost float32 its digits.
SMALLEST, LARGEST = 0.01, 100.0


def equalize(graph: Graph, reach: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Rescales the weights and biases of a graph in place.

    Args:
        graph: its constants are changed.
        reach: the largest magnitude of each channel (C,) on all images, by input of a weighted node. A typical
            magnitude would not do: a channel that seldom fires would take the range from all others when it does.

    Returns:
        The factors (C,) that the channels of each value were divided by.
    """
    sizes = graph.channels()
    ties = _Ties(graph, sizes)
    factors = _factors(graph, reach, ties)
    scales = {name: factors[ties.roots(name)] for name in sizes}
    for node in graph.weighted:
        weight = graph.constants[node.input[1]].astype(np.float64)
        made = scales.get(node.output[0])
        if node.input[0] in scales:
            weight = by_input(node, weight, scales[node.input[0]])
        if made is not None:
            weight = weight / along(made, weight.ndim, output_axis(node))
            if len(node.input) > 2:
                graph.set_bias(node, graph.bias(node) / made)
        graph.constants[node.input[1]] = weight.astype(np.float32)
    return scales


class _Ties:
    """Sets of numbered channels that must share a factor, joined by union-find.

    Args:
        graph: a graph.
        sizes: number of channels of each value.
    """

    def __init__(self, graph: Graph, sizes: Mapping[str, int]) -> None:
        self.first, count = {}, 1  # 0 stands for the factor 1
        for name, size in sizes.items():
            self.first[name] = count
            count += size
        self.sizes = sizes
        self.parent = np.arange(count)
        makers = graph.producers()
        for value in (graph.input, graph.output):
            self.fix(value)
        for node in graph.nodes:
            self.tie(node, makers)

    def tie(self, node: onnx.NodeProto, makers: Mapping[str, onnx.NodeProto]) -> None:
        """Joins the channels that one node makes inseparable."""
        operator = node.op_type
        values = [value for value in (*node.input, *node.output) if value in self.first]
        if operator in WEIGHTED:
            return  # its weights can take a factor on either side
        if operator == "Split" and attribute(node, "axis", 0) == 1:
            self.join_parts(node.input[0], node.output)
        elif operator == "Concat" and attribute(node, "axis", 0) == 1:
            self.join_parts(node.output[0], node.input)
        elif operator == "Mul" and len(node.input) == 2:
            gates = [value for value in node.input if value in makers and makers[value].op_type == "Sigmoid"]
            (gated,) = [value for value in node.input if value not in gates] if len(gates) == 1 else (None,)
            self.join([gated, node.output[0]]) if gated in self.first else list(map(self.fix, values))
        elif operator in ("Relu", "GlobalAveragePool", "Flatten", "Add") and self.all_sized(node):
            self.join(values)
        else:
            for value in values:
                self.fix(value)

    def all_sized(self, node: onnx.NodeProto) -> bool:
        """Returns whether all values of a node have channels, and equally many."""
        sizes = {self.sizes.get(value) for value in (*node.input, *node.output)}
        return len(sizes) == 1 and None not in sizes

    def join_parts(self, whole: str, parts: list[str]) -> None:
        """Joins a value's channels with those of the values that it is cut into."""
        start = self.first[whole]
        for part in parts:
            for offset in range(self.sizes[part]):
                self._union(start + offset, self.first[part] + offset)
            start += self.sizes[part]

    def join(self, values: list[str]) -> None:
        """Joins equal channels of several values."""
        for other in values[1:]:
            for offset in range(self.sizes[other]):
                self._union(self.first[values[0]] + offset, self.first[other] + offset)

    def fix(self, value: str) -> None:
        """Sets the factors of a value's channels to 1."""
        for offset in range(self.sizes.get(value, 0)):
            self._union(0, self.first[value] + offset)

    def roots(self, value: str) -> np.ndarray:
        """Returns the set (C,) that each channel of a value belongs to."""
        return np.array([self._find(self.first[value] + offset) for offset in range(self.sizes[value])])

    def _find(self, channel: int) -> int:
        while self.parent[channel] != channel:
            self.parent[channel] = channel = self.parent[self.parent[channel]]
        return channel

    def _union(self, one: int, other: int) -> None:
        one, other = self._find(one), self._find(other)
        self.parent[max(one, other)] = min(one, other)


def _factors(graph: Graph, reach: Mapping[str, np.ndarray], ties: _Ties) -> np.ndarray:
    """Returns the factor of each set of channels.

    Before depthwise convolutions, whose weights have a scale per channel, the factor removes the whole difference of
    range; before others the activations and the weights that read them share it: each gets the square root.
    """
    count = len(ties.parent)
    extent, read, dense = np.zeros(count), np.zeros(count), np.zeros(count, bool)
    members: dict[str, np.ndarray] = {}
    for node in graph.weighted:
        value = node.input[0]
        if value not in reach:
            continue
        roots = members[value] = ties.roots(value)
        np.maximum.at(extent, roots, reach[value])
        if not is_depthwise(node, graph.constants[node.input[1]]):
            dense[roots] = True
            np.maximum.at(read, roots, input_magnitudes(node, graph.constants[node.input[1]], len(roots)))
    factors = np.ones(count)
    seen = np.zeros(count, bool)
    seen[0] = True
    for roots in members.values():
        new = np.unique(roots[~seen[roots]])
        seen[new] = True
        live = new[extent[new] > 0]
        if not len(live):
            continue
        wanted = extent[live] / np.median(extent[live])
        weights = read[live]
        if dense[live].any():
            weights = np.where(weights > 0, weights, np.median(weights) or 1.0)
            wanted = np.where(dense[live], np.sqrt(wanted / (weights / np.median(weights))), wanted)
        factors[live] = wanted.clip(SMALLEST, LARGEST)
    return factors


def is_depthwise(node: onnx.NodeProto, weight: np.ndarray) -> bool:
    """Returns whether each output reads one input channel."""
    return node.op_type == "Conv" and weight.shape[1] == 1 and attribute(node, "group", 1) > 1


def input_magnitudes(node: onnx.NodeProto, weight: np.ndarray, channels: int) -> np.ndarray:
    """Returns the largest magnitude (C,) among the weights that read each input channel."""
    return np.abs(by_input(node, weight, np.ones(channels), magnitudes=True))


def by_input(node: onnx.NodeProto, weight: np.ndarray, factors: np.ndarray, magnitudes: bool = False) -> np.ndarray:
    """Returns weights times a factor for each input channel (C,); with `magnitudes` the largest per channel instead."""
    if node.op_type == "Gemm":
        axis = 1 - output_axis(node)
        product = weight * along(factors, 2, axis)
        return np.abs(product).max(axis=1 - axis) if magnitudes else product
    groups = attribute(node, "group", 1)
    split = weight.reshape(groups, weight.shape[0] // groups, weight.shape[1], -1)
    product = split * factors.reshape(groups, 1, -1, 1)
    return np.abs(product).max(axis=(1, 3)).ravel() if magnitudes else product.reshape(weight.shape)


def along(factors: np.ndarray, dimensions: int, axis: int) -> np.ndarray:
    """Returns a vector shaped to multiply an array along one axis."""
    shape = [1] * dimensions
    shape[axis] = -1
    return factors.reshape(shape)
