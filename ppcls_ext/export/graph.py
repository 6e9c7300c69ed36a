"""An ONNX graph as lists that can be changed, walked and run piece by piece.

Every step between the conversion and the written file works on `Graph`. A writer of another format needs nothing else:
`nodes` in the order in which they run, `constants` by name, `shapes` by value, and for a quantized graph
`quantizations`, which tell how the integers of each value stand for numbers.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import onnx
from onnx import helper, numpy_helper, shape_inference

from ppcls_ext.errors import PpclsExtError
from ppcls_ext.predict.onnx_file import logits_name, open_session

if TYPE_CHECKING:
    import onnxruntime

#: Operators with weights, which int8 is about.
WEIGHTED = ("Conv", "Gemm")
#: Images per run of a piece of the graph.
PIECE_BATCH = 8


class Quantization(NamedTuple):
    """How integers stand for numbers: number = (integer - zero_point) · scale.

    Attributes:
        integers: name of the quantized value; a constant where weights or biases are quantized.
        scale: one number, or one per channel (C,).
        zero_point: of the integers' type and the shape of `scale`.
        axis: the channels' axis where there is a scale per channel; else None.
    """

    integers: str
    scale: np.ndarray
    zero_point: np.ndarray
    axis: int | None


class Graph:
    """A graph of one input and one output, without control flow.

    Args:
        model: complete; it is left unchanged.

    Attributes:
        model: the model that the graph came from.
        nodes: copies of its nodes, in the order in which they run.
        constants: arrays by name.
        input: name of the input.
        output: name of the output.

    Raises:
        PpclsExtError: the graph has several inputs or outputs.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        if len(model.graph.input) != 1 or len(model.graph.output) != 1:
            raise PpclsExtError("the graph has several inputs or outputs: expected a classifier's file")
        self.model = model
        self.nodes = [_copy(node) for node in model.graph.node]
        self.constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
        self.input, self.output = model.graph.input[0].name, model.graph.output[0].name

    @cached_property
    def shapes(self) -> dict[str, list[int | str]]:
        """The shape of each value of the model that the graph came from; a free axis is a name, or "" without one."""
        inferred = shape_inference.infer_shapes(self.model, data_prop=True).graph
        values = [*inferred.value_info, *inferred.input, *inferred.output]
        return {value.name: shape_of(value) for value in values}

    @property
    def quantizations(self) -> dict[str, Quantization]:
        """The scale and zero point of each value that a DequantizeLinear makes; empty for a graph in floats."""
        found = {}
        for node in self.nodes:
            if node.op_type == "DequantizeLinear":
                scale = self.constants[node.input[1]]
                zero_point = self.constants[node.input[2]] if len(node.input) > 2 else np.zeros(scale.shape, np.int32)
                axis = attribute(node, "axis", 1) if scale.ndim else None
                found[node.output[0]] = Quantization(node.input[0], scale, zero_point, axis)
        return found

    @property
    def weighted(self) -> list[onnx.NodeProto]:
        """The nodes with weights, in order."""
        return [node for node in self.nodes if node.op_type in WEIGHTED]

    def producers(self) -> dict[str, onnx.NodeProto]:
        """Returns the node that makes each value."""
        return {value: node for node in self.nodes for value in node.output}

    def consumers(self) -> dict[str, list[onnx.NodeProto]]:
        """Returns the nodes that read each value or constant."""
        readers: dict[str, list[onnx.NodeProto]] = {}
        for node in self.nodes:
            for value in dict.fromkeys(node.input):
                readers.setdefault(value, []).append(node)
        return readers

    def channels(self) -> dict[str, int]:
        """Returns the number of channels of each value (N, C, …) that has them."""
        sizes = {name: shape[1] for name, shape in self.shapes.items() if len(shape) > 1}
        return {name: size for name, size in sizes.items() if isinstance(size, int)}

    def unshare_constants(self) -> None:
        """Gives each weighted node constants of its own: the file may store equal ones (zeros) once."""
        taken: set[str] = set()
        for node in self.weighted:
            for position in range(1, len(node.input)):
                name = node.input[position]
                if name in taken and name in self.constants:
                    node.input[position] = f"{node.name}.constant_{position}"
                    self.constants[node.input[position]] = self.constants[name]
                taken.add(name)

    def bias(self, node: onnx.NodeProto) -> np.ndarray:
        """Returns a weighted node's bias (outputs,); zeros where it has none."""
        if len(node.input) > 2:
            return self.constants[node.input[2]]
        return np.zeros(self.constants[node.input[1]].shape[output_axis(node)], np.float32)

    def set_bias(self, node: onnx.NodeProto, bias: np.ndarray) -> None:
        """Sets a weighted node's bias (outputs,)."""
        if len(node.input) == 2:
            node.input.append(f"{node.input[1]}.bias")
        self.constants[node.input[2]] = bias.astype(np.float32)

    def initializers(self, nodes: Iterable[onnx.NodeProto]) -> list[onnx.TensorProto]:
        """Returns the constants that `nodes` read, in the order of their use."""
        used = dict.fromkeys(value for node in nodes for value in node.input if value in self.constants)
        return [numpy_helper.from_array(self.constants[value], value) for value in used]

    def to_model(self) -> onnx.ModelProto:
        """Returns the graph as it is now, with the input, output, names and properties of the model it came from."""
        model = onnx.ModelProto()
        model.CopyFrom(self.model)
        del model.graph.node[:], model.graph.initializer[:], model.graph.value_info[:]
        model.graph.node.extend(self.nodes)
        model.graph.initializer.extend(self.initializers(self.nodes))
        return model

    def piece(self, known: Mapping[str, int], wanted: Sequence[str]) -> onnxruntime.InferenceSession:
        """Returns a session that computes some values from others.

        Args:
            known: element type of each value that will be given, by name.
            wanted: names of the values to compute.
        """
        makers, needed, nodes = self.producers(), list(wanted), {}
        while needed:
            value = needed.pop()
            if value in known or value in self.constants or not value or id(makers[value]) in nodes:
                continue
            nodes[id(makers[value])] = makers[value]
            needed.extend(makers[value].input)
        ordered = [node for node in self.nodes if id(node) in nodes]
        used = dict.fromkeys(value for node in ordered for value in node.input)
        graph = helper.make_graph(
            ordered,
            "piece",
            [helper.make_tensor_value_info(name, known[name], None) for name in used if name in known],
            [helper.make_empty_tensor_value_info(name) for name in wanted],
            self.initializers(ordered),
        )
        return open_session(
            helper.make_model(graph, opset_imports=self.model.opset_import, ir_version=self.model.ir_version)
        )


def run_piece(
    piece: onnxruntime.InferenceSession, values: Mapping[str, np.ndarray], wanted: Sequence[str]
) -> Iterator[list[np.ndarray]]:
    """Runs a piece over all images, `PIECE_BATCH` at a time.

    Args:
        piece: what `Graph.piece` returned.
        values: (N, …) each, by name.
        wanted: names of the values to compute.
    """
    names = [value.name for value in piece.get_inputs()]
    for start in range(0, len(values[names[0]]), PIECE_BATCH):
        yield piece.run(list(wanted), {name: values[name][start : start + PIECE_BATCH] for name in names})


def with_logits(model: onnx.ModelProto, content: bytes) -> bytes:
    """Returns the content of a model's file, extended by its logits as one more output where it ends in scores.

    protobuf merges messages that stand one behind the other, so that onnxruntime loads the file's own bytes.
    """
    (output,) = model.graph.output
    name = logits_name(model)
    more = onnx.ModelProto()
    if name != output.name:
        more.graph.output.add().CopyFrom(output)
        more.graph.output[0].name = name
    return content + more.SerializeToString()


def shape_of(value: onnx.ValueInfoProto) -> list[int | str]:
    """Returns the sizes of a value's axes; a free axis is a name, or "" without one."""
    return [dim.dim_value or dim.dim_param for dim in value.type.tensor_type.shape.dim]


def output_axis(node: onnx.NodeProto) -> int:
    """Returns the axis of a weighted node's outputs in its weights; a Gemm's are (inputs, outputs)."""
    return 1 if node.op_type == "Gemm" and not attribute(node, "transB", 0) else 0


def attribute(node: onnx.NodeProto, name: str, default: int) -> int:
    """Returns a node's attribute that is one integer."""
    return next((entry.i for entry in node.attribute if entry.name == name), default)


def attributes(node: onnx.NodeProto, name: str, default: Sequence[int]) -> list[int]:
    """Returns a node's attribute that is several integers."""
    return next((list(entry.ints) for entry in node.attribute if entry.name == name), list(default))


def channel_axes(array: np.ndarray) -> tuple[int, ...]:
    """Returns the axes of (N, C, …) that are not the channels'."""
    return (0, *range(2, array.ndim))


def _copy(node: onnx.NodeProto) -> onnx.NodeProto:
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    return copy
