"""The quantized form of a graph: QuantizeLinear and DequantizeLinear around everything that can run in integers.

onnxruntime and OpenVINO fuse these pairs with the operators between them into integer ones.

The biases are corrected in sequence: the mean error that rounding causes in a layer's outputs is subtracted from its
bias, each layer on inputs that come from corrected layers (arXiv 1906.04721, 4.2). The quantized graph is run piece by
piece, so that no layer is computed more than twice; between the pieces its values are kept in 8 bits.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
from onnx import helper

from ppcls_ext.export.calibration import LARGEST_WEIGHT, Progress, channel_means, round_weights, scale_and_zero
from ppcls_ext.export.graph import WEIGHTED, Graph, output_axis, run_piece
from ppcls_ext.predict.onnx_file import logits_name

#: Operators that onnxruntime runs in integers between such pairs.
INTEGER = (*WEIGHTED, "Add", "Mul", "Concat", "Split", "GlobalAveragePool", "Flatten", "Sigmoid")
#: Operators that pass values on: their results share their input's range.
PASSING = ("Split", "Flatten")
LARGEST_BIAS = 2**31 - 1
_TYPES = {np.dtype(np.float32): onnx.TensorProto.FLOAT, np.dtype(np.uint8): onnx.TensorProto.UINT8}

Range = tuple[float, float]


def quantized_values(graph: Graph) -> list[str]:
    """Returns the values that get eight bits, in order: those that integer operators read and write.

    The values between a weighted node and its ReLU, which fuse, and the logits are not among them.
    """
    makers, readers, logits = graph.producers(), graph.consumers(), logits_name(graph.model)
    found: dict[str, None] = {}
    for node in graph.nodes:
        if node.op_type not in INTEGER:
            continue
        inputs = node.input[:1] if node.op_type in WEIGHTED else node.input
        if any(value in graph.constants for value in inputs):
            continue
        for value in (*inputs, *node.output):
            reading = readers.get(value, [])
            fused = [reader.op_type for reader in reading] == ["Relu"] and makers[value].op_type in (*WEIGHTED, "Add")
            if fused:
                value = reading[0].output[0]
            elif not reading or value == logits:
                continue
            found[value] = None
    return list(found)


def range_sources(graph: Graph, values: list[str]) -> dict[str, str]:
    """Returns for each quantized value the value whose range it takes: another one behind `PASSING` operators."""
    makers = graph.producers()
    sources: dict[str, str] = {}
    for value in values:
        maker = makers.get(value)
        sources[value] = value
        if maker is not None and maker.op_type in PASSING:
            sources[value] = sources.get(maker.input[0], value)
    return sources


class QuantizedGraph(Graph):
    """A graph with pairs of QuantizeLinear and DequantizeLinear.

    Args:
        graph: fp32, equalized, without shared constants; it is left unchanged.
        ranges: (low, high) that the eight bits of each value cover.
        covariances: of each weighted node's inputs, by its name (`calibration.Moments`).
        progress: called with 1 after each weighted node, whose weights are rounded.
    """

    def __init__(
        self,
        graph: Graph,
        ranges: Mapping[str, Range],
        covariances: Mapping[str, np.ndarray],
        progress: Progress,
    ) -> None:
        super().__init__(graph.to_model())
        self.covariances = covariances
        self.scales: dict[str, np.float32] = {}
        #: fp32 weights and biases by weighted node.
        self.floats = {
            node.name: (graph.constants[node.input[1]], graph.bias(node).astype(np.float64)) for node in graph.weighted
        }
        nodes: list[onnx.NodeProto] = []
        if graph.input in ranges:
            nodes += self._pair(graph.input, ranges[graph.input])
        for node in self.nodes:
            inputs = [f"{value}.dequantized" if value in ranges else value for value in node.input]
            node.input[:] = inputs
            if node.op_type in WEIGHTED and node.input[0].endswith(".dequantized"):
                nodes += self._weights(node, node.input[0][: -len(".dequantized")])
                progress(1)
            nodes.append(node)
            for value in node.output:
                if value in ranges:
                    nodes += self._pair(value, ranges[value])
        self.nodes = nodes

    def _pair(self, value: str, limits: Range) -> list[onnx.NodeProto]:
        scale, zero = scale_and_zero(*limits)
        self.scales[value] = scale
        names = [f"{value}.scale", f"{value}.zero_point"]
        self.constants.update(zip(names, (scale, zero)))
        quantized, dequantized = f"{value}.quantized", f"{value}.dequantized"
        return [
            helper.make_node("QuantizeLinear", [value, *names], [quantized], name=quantized),
            helper.make_node("DequantizeLinear", [quantized, *names], [dequantized], name=dequantized),
        ]

    def _weights(self, node: onnx.NodeProto, source: str) -> list[onnx.NodeProto]:
        """Stores weights as int8 with a symmetric scale per output, biases as int32 with the product of both scales."""
        name, axis = node.input[1], output_axis(node)
        weight, bias = self.floats[node.name]
        others = tuple(i for i in range(weight.ndim) if i != axis)
        scales = np.abs(weight).max(axis=others) / LARGEST_WEIGHT
        # a dead output's bias must fit too
        scales = np.maximum(scales, np.abs(bias) / (float(self.scales[source]) * (LARGEST_BIAS // 2)))
        scales = np.maximum(scales, np.finfo(np.float32).tiny * LARGEST_WEIGHT).astype(np.float32)
        levels = round_weights(node, weight, scales, self.covariances[node.name])
        del self.constants[name]
        if len(node.input) == 2:
            node.input.append("")
        bias_name = node.input[2] or f"{name}.bias"
        self.constants.update(
            {
                f"{name}.quantized": levels,
                f"{name}.scale": scales,
                f"{name}.zero_point": np.zeros(len(scales), np.int8),
                f"{bias_name}.scale": scales * self.scales[source],
            }
        )
        node.input[1], node.input[2] = f"{name}.dequantized", f"{bias_name}.dequantized"
        self.set_bias(node, bias)
        pairs: tuple[tuple[str, int, list[str]], ...] = ((name, axis, [f"{name}.zero_point"]), (bias_name, 0, []))
        return [
            helper.make_node(
                "DequantizeLinear",
                [f"{stem}.quantized", f"{stem}.scale", *zero],
                [f"{stem}.dequantized"],
                name=f"{stem}.dequantized",
                axis=along_axis,
            )
            for stem, along_axis, zero in pairs
        ]

    def set_bias(self, node: onnx.NodeProto, bias: np.ndarray) -> None:
        """Rounds a weighted node's bias (outputs,) to int32."""
        if not node.input[2].endswith(".dequantized"):
            super().set_bias(node, bias)
            return
        self.floats[node.name] = (self.floats[node.name][0], bias)
        stem = node.input[2][: -len(".dequantized")]
        self.constants.pop(stem, None)
        levels = np.rint(bias / self.constants[f"{stem}.scale"].astype(np.float64))
        self.constants[f"{stem}.quantized"] = levels.clip(-LARGEST_BIAS, LARGEST_BIAS).astype(np.int32)

    def bias(self, node: onnx.NodeProto) -> np.ndarray:
        """Returns a weighted node's bias (outputs,) before rounding."""
        return self.floats[node.name][1]


def correct_biases(
    graph: QuantizedGraph, images: np.ndarray, means: Mapping[str, np.ndarray], progress: Progress
) -> None:
    """Corrects the biases in place.

    Args:
        graph: its biases are changed.
        images: (N, 3, H, W).
        means: of the output channels of each weighted node in fp32, on the same images, by value.
        progress: called with 1 after each layer.
    """
    kept = {graph.input: images}
    waiting = [node.name for node in graph.weighted]
    for node in graph.weighted:
        (value,) = node.output
        total = sum(channel_means(array) * len(array) for array in _run(graph, kept, [value])[value])
        graph.set_bias(node, graph.bias(node) + means[value] - total / len(images))
        waiting.remove(node.name)
        if waiting:
            kept = _advance(graph, kept, set(waiting))
        progress(1)


def _run(graph: QuantizedGraph, kept: Mapping[str, np.ndarray], wanted: list[str]) -> dict[str, list[np.ndarray]]:
    piece = graph.piece({name: _TYPES[array.dtype] for name, array in kept.items()}, wanted)
    found: dict[str, list[np.ndarray]] = {name: [] for name in wanted}
    for arrays in run_piece(piece, kept, wanted):
        for name, array in zip(wanted, arrays):
            found[name].append(array)
    return found


def _advance(graph: QuantizedGraph, kept: Mapping[str, np.ndarray], waiting: set[str]) -> dict[str, np.ndarray]:
    """Returns the values at the border between the nodes that are computed and those that wait for a layer."""
    makers = graph.producers()
    computable = {graph.input, *graph.constants, ""}
    needed: dict[str, None] = {}
    for node in graph.nodes:
        if node.name not in waiting and computable.issuperset(node.input):
            computable.update(node.output)
            continue
        for value in node.input:
            maker = makers.get(value)
            if value not in computable or maker is None:
                continue
            # eight bits take a quarter of the memory
            quantized = maker.op_type == "DequantizeLinear" and maker.input[0] not in graph.constants
            if quantized or maker.op_type != "DequantizeLinear":
                needed[maker.input[0] if quantized else value] = None
    missing = [value for value in needed if value not in kept]
    found = _run(graph, kept, missing) if missing else {}
    return {value: kept[value] if value in kept else np.concatenate(found[value]) for value in needed}
