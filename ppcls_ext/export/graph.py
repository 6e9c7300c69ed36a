"""An ONNX graph as lists that can be changed and run piece by piece."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import helper, numpy_helper, shape_inference

from ppcls_ext.errors import PpclsExtError
from ppcls_ext.predict.onnx_file import open_session

if TYPE_CHECKING:
    import onnxruntime

#: Operators with weights, which int8 is about.
WEIGHTED = ("Conv", "Gemm")
#: Pictures per run of a piece of the graph.
BATCH = 8


class Network:
    """A graph of one input and one output, without control flow.

    Args:
        model: complete; left as it is.

    Raises:
        PpclsExtError: the graph has several inputs or outputs.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = model
        self.nodes = [_copy(node) for node in model.graph.node]
        self.constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
        if len(model.graph.input) != 1 or len(model.graph.output) != 1:
            raise PpclsExtError("the graph has several inputs or outputs: expected a classifier's file")
        self.input, self.output = model.graph.input[0].name, model.graph.output[0].name
        self._unshare()

    def _unshare(self) -> None:
        """Gives each weighted node constants of its own: equal ones (zeros) may be kept once in the file."""
        taken: set[str] = set()
        for node in self.weighted:
            for position in range(1, len(node.input)):
                name = node.input[position]
                if name in taken and name in self.constants:
                    node.input[position] = f"{node.name}.constant_{position}"
                    self.constants[node.input[position]] = self.constants[name]
                taken.add(name)

    @property
    def weighted(self) -> list[onnx.NodeProto]:
        """The nodes with weights, in order."""
        return [node for node in self.nodes if node.op_type in WEIGHTED]

    def producers(self) -> dict[str, onnx.NodeProto]:
        """The node that makes each value."""
        return {value: node for node in self.nodes for value in node.output}

    def consumers(self) -> dict[str, list[onnx.NodeProto]]:
        """The nodes that read each value; a constant's too."""
        readers: dict[str, list[onnx.NodeProto]] = {}
        for node in self.nodes:
            for value in dict.fromkeys(node.input):
                readers.setdefault(value, []).append(node)
        return readers

    def channels(self) -> dict[str, int]:
        """The number of channels of each value (N, C, …) that has them."""
        inferred = shape_inference.infer_shapes(self.to_model()).graph
        dims = {value.name: value.type.tensor_type.shape.dim for value in [*inferred.value_info, *inferred.input]}
        return {name: dim[1].dim_value for name, dim in dims.items() if len(dim) > 1 and dim[1].dim_value}

    def bias(self, node: onnx.NodeProto) -> np.ndarray:
        """A weighted node's bias (outputs,), zeros where it has none."""
        if len(node.input) > 2:
            return self.constants[node.input[2]]
        return np.zeros(self.constants[node.input[1]].shape[output_axis(node)], np.float32)

    def set_bias(self, node: onnx.NodeProto, bias: np.ndarray) -> None:
        """Gives a weighted node its bias."""
        if len(node.input) == 2:
            node.input.append(f"{node.input[1]}.bias")
        self.constants[node.input[2]] = bias.astype(np.float32)

    def to_model(self) -> onnx.ModelProto:
        """The graph as it is now, with the input, output, names and properties of the model it came from."""
        used = dict.fromkeys(value for node in self.nodes for value in node.input if value in self.constants)
        model = onnx.ModelProto()
        model.CopyFrom(self.model)
        del model.graph.node[:], model.graph.initializer[:], model.graph.value_info[:]
        model.graph.node.extend(self.nodes)
        model.graph.initializer.extend(numpy_helper.from_array(self.constants[value], value) for value in used)
        return model

    def piece(self, known: Mapping[str, int], wanted: Sequence[str]) -> onnxruntime.InferenceSession:
        """A session from known values to wanted ones.

        Args:
            known: element type of each value that will be given.
            wanted: names of values.
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
            [numpy_helper.from_array(self.constants[name], name) for name in used if name in self.constants],
        )
        return open_session(
            helper.make_model(graph, opset_imports=self.model.opset_import, ir_version=self.model.ir_version)
        )


def run_piece(
    piece: onnxruntime.InferenceSession, values: Mapping[str, np.ndarray], wanted: Sequence[str]
) -> Iterator[list[np.ndarray]]:
    """Runs a piece over all pictures, `BATCH` at a time; `values`: (N, …) each."""
    names = [value.name for value in piece.get_inputs()]
    for start in range(0, len(values[names[0]]), BATCH):
        yield piece.run(list(wanted), {name: values[name][start : start + BATCH] for name in names})


def output_axis(node: onnx.NodeProto) -> int:
    """The axis of a weighted node's outputs in its weights; a Gemm's are (inputs, outputs)."""
    return 1 if node.op_type == "Gemm" and not attribute(node, "transB", 0) else 0


def attribute(node: onnx.NodeProto, name: str, default: int) -> int:
    """A node's attribute, a whole number."""
    return next((entry.i for entry in node.attribute if entry.name == name), default)


def attributes(node: onnx.NodeProto, name: str, default: Sequence[int]) -> list[int]:
    """A node's attribute, several whole numbers."""
    return next((list(entry.ints) for entry in node.attribute if entry.name == name), list(default))


def channel_axes(array: np.ndarray) -> tuple[int, ...]:
    """The axes of (N, C, …) that are not the channels'."""
    return (0, *range(2, array.ndim))


def _copy(node: onnx.NodeProto) -> onnx.NodeProto:
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    return copy
