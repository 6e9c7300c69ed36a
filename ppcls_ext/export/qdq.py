"""The quantized form of a network: QuantizeLinear and DequantizeLinear around everything that can run in integers.

onnxruntime and OpenVINO fuse these pairs with the operators between them into integer ones.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
from onnx import helper

from ppcls_ext.export.graph import WEIGHTED, Network, output_axis
from ppcls_ext.export.ranges import scale_and_zero
from ppcls_ext.export.rounding import LARGEST_WEIGHT, round_weights

#: What onnxruntime runs in integers between such pairs.
INTEGER = (*WEIGHTED, "Add", "Mul", "Concat", "Split", "GlobalAveragePool", "Flatten", "Sigmoid")
#: What passes values on: its results share its input's range.
PASSING = ("Split", "Flatten")
LARGEST_BIAS = 2**31 - 1

Range = tuple[float, float]


def quantized_values(network: Network) -> list[str]:
    """The values that get eight bits, in order: what integer operators read and write.

    Not those between a weighted node and its ReLU, which fuse, and not the logits.
    """
    makers, readers = network.producers(), network.consumers()
    found: dict[str, None] = {}
    for node in network.nodes:
        if node.op_type not in INTEGER:
            continue
        inputs = node.input[:1] if node.op_type in WEIGHTED else node.input
        if any(value in network.constants for value in inputs):
            continue
        for value in (*inputs, *node.output):
            reading = readers.get(value, [])
            fused = [reader.op_type for reader in reading] == ["Relu"] and makers[value].op_type in (*WEIGHTED, "Add")
            if fused:
                value = reading[0].output[0]
            elif not reading or any(reader.op_type == "Softmax" for reader in reading):
                continue
            found[value] = None
    return list(found)


def range_sources(network: Network, values: list[str]) -> dict[str, str]:
    """By quantized value, the value whose range it has: its own but behind operators that only pass values on."""
    makers = network.producers()
    sources: dict[str, str] = {}
    for value in values:
        maker = makers.get(value)
        passed = maker is not None and maker.op_type in PASSING and maker.input[0] in sources
        sources[value] = sources[maker.input[0]] if passed else value
    return sources


class QuantizedNetwork(Network):
    """A network with pairs of QuantizeLinear and DequantizeLinear.

    Args:
        network: fp32, equalized; left as it is.
        ranges: by value, what its eight bits cover.
        covariances: by weighted node, of its inputs (`rounding.Moments`).
    """

    def __init__(self, network: Network, ranges: Mapping[str, Range], covariances: Mapping[str, np.ndarray]) -> None:
        super().__init__(network.to_model())
        self.covariances = covariances
        self.scales: dict[str, np.float32] = {}
        #: fp32 weights and biases by weighted node.
        self.floats = {
            node.name: (network.constants[node.input[1]], network.bias(node).astype(np.float64))
            for node in network.weighted
        }
        nodes: list[onnx.NodeProto] = []
        if network.input in ranges:
            nodes += self._pair(network.input, ranges[network.input])
        for node in self.nodes:
            inputs = [f"{value}.dequantized" if value in ranges else value for value in node.input]
            node.input[:] = inputs
            if node.op_type in WEIGHTED and node.input[0].endswith(".dequantized"):
                nodes += self._weights(node, node.input[0][: -len(".dequantized")])
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
        """Weights as int8 with a symmetric scale per output, biases as int32 with the product of both scales."""
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
        pairs = ((name, axis, [f"{name}.zero_point"]), (bias_name, 0, []))
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
        """A weighted node's bias (outputs,) before rounding."""
        return self.floats[node.name][1]
