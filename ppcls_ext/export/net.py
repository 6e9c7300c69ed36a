"""A fused classifier as a list of a dozen kinds of operations, from which every other format is written.

Fusing leaves little: convolutions, one fully connected layer, and few operations between them. What is not among them
is refused by name, so that no writer has to guess.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import onnx
from onnx import helper

from ppcls_ext.errors import PpclsExtError
from ppcls_ext.export.gelu import fuse_gelu
from ppcls_ext.export.graph import Graph
from ppcls_ext.predict.metadata import Metadata

#: ONNX's operators → kinds of operations that have neither weights nor sizes.
PLAIN = {
    "Relu": "relu",
    "Gelu": "gelu",
    "Sigmoid": "sigmoid",
    "Softmax": "softmax",
    "Add": "add",
    "Mul": "mul",
    "Concat": "concat",
    "GlobalAveragePool": "mean",
}
#: The values that an operator's attributes must have, where they are there.
EXPECTED: dict[str, dict[str, Any]] = {
    "Conv": {"dilations": [1, 1], "auto_pad": b"NOTSET"},
    "Gemm": {"alpha": 1.0, "beta": 1.0, "transA": 0},
    "Gelu": {"approximate": b"none"},
    "Concat": {"axis": 1},
    "Split": {"axis": 1},
    "Flatten": {"axis": 1},
}
#: Operations whose ReLU the runtimes compute at once.
WITH_RELU = ("conv", "add")
KNOWN = ", ".join(sorted({"Conv", "Gemm", "Split", "Flatten", *PLAIN}))


class Constant(NamedTuple):
    """Weights (outputs, …) or biases (outputs,).

    Attributes:
        stored: float32, float16 (weights of a file in half precision), int8 or int32.
        scale: (outputs,), by which the integers are multiplied; None for floats.
    """

    stored: np.ndarray
    scale: np.ndarray | None = None

    @property
    def floats(self) -> np.ndarray:
        """The numbers themselves, float32."""
        if self.scale is None:
            return self.stored.astype(np.float32)
        scale = self.scale.astype(np.float64).reshape(-1, *[1] * (self.stored.ndim - 1))
        return (self.stored * scale).astype(np.float32)


class Levels(NamedTuple):
    """How a value's eight bits stand for numbers: number = (level - zero_point) · scale; from -128 to 127."""

    scale: float
    zero_point: int


@dataclass(frozen=True)
class Operation:
    """One step of a net.

    Attributes:
        kind: conv, linear, relu, gelu, sigmoid, softmax, add, mul, concat and split (both of channels), or mean (over
            all pixels).
        inputs: names of the values that it reads.
        outputs: names of the values that it makes; one, but for split.
        weight: of conv (outputs, inputs / groups, height, width) and of linear (outputs, inputs).
        bias: of conv and linear (outputs,).
        stride: of conv, in both directions.
        padding: of conv, zeros on each side.
        groups: of conv.
        relu: whether a ReLU follows.
        sizes: of split, the channels of each output.
    """

    kind: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    weight: Constant | None = None
    bias: Constant | None = None
    stride: int = 1
    padding: int = 0
    groups: int = 1
    relu: bool = False
    sizes: tuple[int, ...] = ()

    @property
    def constants(self) -> tuple[Constant, Constant]:
        """Weights and biases of conv and linear."""
        assert self.weight is not None, self.kind
        assert self.bias is not None, self.kind
        return self.weight, self.bias


@dataclass(frozen=True)
class Net:
    """A fused classifier.

    Attributes:
        operations: in the order in which they run.
        input: name of the input.
        output: name of the output: logits, probabilities or scores.
        size: (C, H, W) of the input.
        levels: of each value that has eight bits, by name; empty for a net in floats.
        metadata: architecture, image rule, class names, task.
        properties: `metadata` as strings, with versions and quantization.
        shapes: of each value: (C, H, W), or (C,) behind linear.
    """

    operations: tuple[Operation, ...]
    input: str
    output: str
    size: tuple[int, int, int]
    levels: Mapping[str, Levels]
    metadata: Metadata
    properties: Mapping[str, str]
    shapes: dict[str, tuple[int, ...]] = field(init=False)

    def __post_init__(self) -> None:
        shapes: dict[str, tuple[int, ...]] = {self.input: self.size}
        for operation in self.operations:
            shapes.update(zip(operation.outputs, _output_shapes(operation, [shapes[v] for v in operation.inputs])))
        object.__setattr__(self, "shapes", shapes)

    @property
    def classes(self) -> int:
        """The number of classes."""
        return self.shapes[self.output][0]

    @property
    def form(self) -> str:
        """The kind of numbers: "float32", "float16" (weights alone) or "int8"."""
        return {"fp16": "float16", "int8": "int8"}.get(self.metadata.quantization or "", "float32")

    def readers(self) -> dict[str, int]:
        """Returns how many operations read each value."""
        counts: dict[str, int] = {}
        for operation in self.operations:
            for value in operation.inputs:
                counts[value] = counts.get(value, 0) + 1
        return counts

    def for_rgb(self) -> Net:
        """Returns the net that takes RGB where this one takes BGR: the first convolution's inputs change places."""
        rule = self.metadata.preprocessing
        if rule.channel_order == "RGB":
            return self
        first = [operation for operation in self.operations if self.input in operation.inputs]
        if len(first) != 1 or first[0].kind != "conv" or first[0].groups != 1:
            raise PpclsExtError("the network reads BGR images by more than one convolution: train it on RGB")
        weight, _ = first[0].constants
        flipped = weight._replace(stored=np.ascontiguousarray(weight.stored[:, ::-1]))
        changed = dataclasses.replace(first[0], weight=flipped)
        rule = dataclasses.replace(rule, channel_order="RGB", mean=rule.mean[::-1], std=rule.std[::-1])
        return dataclasses.replace(
            self,
            operations=tuple(changed if operation is first[0] else operation for operation in self.operations),
            metadata=dataclasses.replace(self.metadata, preprocessing=rule),
        )


def read_net(model: onnx.ModelProto) -> Net:
    """Reads a classifier that export-onnx wrote, in float32, float16 or int8.

    Raises:
        PpclsExtError: the graph holds something else than fused nets are made of; the message names it.
    """
    properties = {entry.key: entry.value for entry in model.metadata_props}
    metadata = Metadata.from_properties(properties)
    graph = Graph(model)
    graph.unshare_constants()
    fuse_gelu(graph)
    shape = [entry.dim_value for entry in model.graph.input[0].type.tensor_type.shape.dim]
    if len(shape) != 4 or not all(shape[1:]):
        raise PpclsExtError(f"the network's input has shape {shape}: expected (N, 3, H, W) with fixed sides")
    reader = _Reader(graph)
    for node in graph.nodes:
        reader.read(node)
    return Net(
        _with_relu(reader.operations, graph.output, reader.levels),
        graph.input,
        graph.output,
        (shape[1], shape[2], shape[3]),
        reader.levels,
        metadata,
        properties,
    )


def without_rounding(model: onnx.ModelProto) -> onnx.ModelProto:
    """Returns an int8 graph in floats: its weights are those of eight bits, and its values are not rounded."""
    graph = Graph(model)
    quantizations = graph.quantizations
    sources: dict[str, str] = {}
    kept = []
    for node in graph.nodes:
        node.input[:] = [sources.get(value, value) for value in node.input]
        if node.op_type == "DequantizeLinear" and node.input[0] in graph.constants:
            found = quantizations[node.output[0]]
            array, axis = graph.constants[found.integers], found.axis or 0
            shape = [-1 if axis == other else 1 for other in range(array.ndim)]
            graph.constants[node.output[0]] = (array * found.scale.astype(np.float64).reshape(shape)).astype(np.float32)
        elif node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            sources[node.output[0]] = node.input[0]
        else:
            kept.append(node)
    graph.nodes = kept
    return graph.to_model()


def with_unsigned_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """Returns an int8 graph that computes the same with weights from 0 to 255 and a zero point of 128.

    On CPUs without instructions for int8 (VNNI) onnxruntime's sums of signed weights saturate: the answers are others
    than the file says. Those of unsigned weights never do.
    """
    graph = Graph(model)
    for name, array in graph.constants.items():
        if array.dtype == np.int8:
            graph.constants[name] = (array.astype(np.int16) + 128).astype(np.uint8)
    return graph.to_model()


class _Reader:
    """Makes operations of nodes, in order.

    Values behind QuantizeLinear, DequantizeLinear and Flatten are the value before it.
    """

    def __init__(self, graph: Graph) -> None:
        self.operations: list[Operation] = []
        self.levels: dict[str, Levels] = {}
        self._constants, self._quantizations = dict(graph.constants), graph.quantizations
        self._sources: dict[str, str] = {}

    def read(self, node: onnx.NodeProto) -> None:
        """Reads one node; raises PpclsExtError where no kind of operation can express it."""
        read = {"Conv": self._conv, "Gemm": self._gemm, "Split": self._split, "Flatten": self._pass_on}
        read |= {"QuantizeLinear": self._quantize, "DequantizeLinear": self._dequantize, "Cast": self._cast}
        read |= dict.fromkeys(PLAIN, self._plain)
        if node.op_type not in read or node.domain:
            raise _refused(node, f"expected one of {KNOWN}, which fused nets consist of")
        given = {entry.name: helper.get_attribute_value(entry) for entry in node.attribute}
        for name, value in EXPECTED.get(node.op_type, {}).items():
            if given.get(name, value) != value:
                raise _refused(node, f"its {name} is {given[name]}, expected {value}")
        read[node.op_type](node, given)

    def _add(self, kind: str, node: onnx.NodeProto, inputs: Sequence[str], **more: Any) -> None:
        values = tuple(self._sources.get(value, value) for value in inputs)
        if any(value in self._constants for value in values):
            raise _refused(node, "it computes with a constant, and only convolutions and Gemm may have one")
        self.operations.append(Operation(kind, values, tuple(node.output), **more))

    def _constant(self, node: onnx.NodeProto, position: int) -> Constant | None:
        name = node.input[position] if len(node.input) > position else ""
        if not name:
            return None
        if name in self._constants:
            return Constant(self._constants[name])
        found = self._quantizations.get(name)
        if found is None or found.integers not in self._constants or np.any(found.zero_point):
            raise _refused(node, f"{name} is no constant, or its zero point is not 0")
        return Constant(self._constants[found.integers], np.atleast_1d(found.scale))

    def _weighted(self, kind: str, node: onnx.NodeProto, weight: Constant, **more: Any) -> None:
        outputs = len(weight.stored)
        if weight.scale is not None:
            weight = weight._replace(scale=np.broadcast_to(weight.scale, (outputs,)))
        bias = self._constant(node, 2) or Constant(np.zeros(outputs, np.float32))
        self._add(kind, node, node.input[:1], weight=weight, bias=bias, **more)

    def _conv(self, node: onnx.NodeProto, given: dict[str, Any]) -> None:
        weight = self._constant(node, 1)
        assert weight is not None
        if weight.stored.ndim != 4:
            raise _refused(node, f"its weights have {weight.stored.ndim} axes, expected 4")
        strides, pads = given.get("strides", [1, 1]), given.get("pads", [0] * 4)
        if len(set(strides)) != 1 or len(set(pads)) != 1:
            raise _refused(node, f"its strides are {strides} and its pads {pads}, expected the same on all sides")
        self._weighted("conv", node, weight, stride=strides[0], padding=pads[0], groups=given.get("group", 1))

    def _gemm(self, node: onnx.NodeProto, given: dict[str, Any]) -> None:
        weight = self._constant(node, 1)
        assert weight is not None
        if not given.get("transB", 0):
            weight = weight._replace(stored=np.ascontiguousarray(weight.stored.T))
        self._weighted("linear", node, weight)

    def _split(self, node: onnx.NodeProto, given: dict[str, Any]) -> None:
        # before opset 13 the sizes were an attribute
        sizes = self._constants.get(node.input[1]) if len(node.input) > 1 else given.get("split")
        if sizes is None or len(sizes) != len(node.output):
            raise _refused(node, "it does not say the sizes of its outputs")
        self._add("split", node, node.input[:1], sizes=tuple(map(int, sizes)))

    def _plain(self, node: onnx.NodeProto, given: dict[str, Any]) -> None:
        self._add(PLAIN[node.op_type], node, node.input)

    def _pass_on(self, node: onnx.NodeProto, given: dict[str, Any]) -> None:
        self._sources[node.output[0]] = self._sources.get(node.input[0], node.input[0])

    def _quantize(self, node: onnx.NodeProto, given: dict[str, Any]) -> None:
        self._pass_on(node, given)
        if len(node.input) != 3:
            raise _refused(node, "it has no zero point")
        scale, zero = (self._constants[name] for name in node.input[1:])
        if scale.size != 1:
            raise _refused(node, "it has a scale per channel, which only weights may have")
        # unsigned levels, moved by 128, are signed ones
        levels = Levels(float(scale.item()), int(zero.item()) - (128 if zero.dtype == np.uint8 else 0))
        value = self._sources[node.output[0]]
        if self.levels.setdefault(value, levels) != levels:
            raise _refused(node, f"{value} is quantized in two ways")

    def _dequantize(self, node: onnx.NodeProto, given: dict[str, Any]) -> None:
        if node.input[0] not in self._constants:  # weights are read where they are used
            self._pass_on(node, given)

    def _cast(self, node: onnx.NodeProto, given: dict[str, Any]) -> None:
        half = self._constants.get(node.input[0])
        if half is None or half.dtype != np.float16:
            raise _refused(node, "expected it only behind weights in float16")
        self._constants[node.output[0]] = half


def _refused(node: onnx.NodeProto, reason: str) -> PpclsExtError:
    return PpclsExtError(f"the graph holds {node.op_type} {node.name}".rstrip() + f": {reason}")


def _with_relu(operations: list[Operation], output: str, levels: Mapping[str, Levels]) -> tuple[Operation, ...]:
    """Makes a ReLU part of the operation before it, where nothing else reads that one's result, in whatever levels."""
    makers = {value: index for index, operation in enumerate(operations) for value in operation.outputs}
    readers = [value for operation in operations for value in operation.inputs]
    result: dict[int, Operation] = {}
    for index, operation in enumerate(operations):
        before = operation.inputs[0]
        maker = makers.get(before, -1)
        joined = result.get(maker)
        single = readers.count(before) == 1 and before != output and before not in levels
        if operation.kind == "relu" and single and joined is not None and joined.kind in WITH_RELU:
            result[maker] = dataclasses.replace(joined, relu=True, outputs=operation.outputs)
        else:
            result[index] = operation
    return tuple(result.values())


def _output_shapes(operation: Operation, inputs: list[tuple[int, ...]]) -> list[tuple[int, ...]]:
    channels, *sides = inputs[0]
    if operation.kind == "conv":
        weight, _ = operation.constants
        kernel = weight.stored.shape[2]
        moved = [(side + 2 * operation.padding - kernel) // operation.stride + 1 for side in sides]
        return [(len(weight.stored), *moved)]
    if operation.kind == "linear":
        weight, _ = operation.constants
        if math.prod(sides) != 1 or weight.stored.shape[1] != channels:
            raise PpclsExtError(f"Gemm reads a map of {inputs[0]}: expected the means of its channels")
        return [(len(weight.stored),)]
    if operation.kind == "mean":
        return [(channels, 1, 1)]
    if operation.kind == "concat":
        return [(sum(shape[0] for shape in inputs), *sides)]
    if operation.kind == "split":
        return [(size, *sides) for size in operation.sizes]
    return [tuple(np.broadcast_shapes(*inputs))]
