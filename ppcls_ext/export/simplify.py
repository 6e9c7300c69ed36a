"""From paddle2onnx's raw graph to a clean one: onnxslim first, then what onnxslim leaves."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

import numpy as np
import onnx
import onnxslim
from onnx import helper, numpy_helper, shape_inference

import ppcls_ext
from ppcls_ext.errors import PpclsExtError, one_line
from ppcls_ext.export import gelu
from ppcls_ext.predict.onnx_file import logits_name

INPUT = "image"
LOGITS = "logits"
PROBABILITIES = "probabilities"
BATCH = "batch"


def simplify(raw: onnx.ModelProto, name: str, parameter_names: Mapping[str, str], output: str) -> onnx.ModelProto:
    """Simplifies and names a converted graph; its mathematics stay the same.

    Afterwards there are no constant or identity nodes, biases are inside the convolutions, the classifier is one Gemm
    behind one Flatten (which keeps any batch), and all names follow from the model alone: equal models, equal files.

    Args:
        raw: one input (N, C, H, W), one output (N, classes); with Softmax at the end where that is `PROBABILITIES`.
        name: of the graph.
        parameter_names: Paddle's name of each parameter → its name in the state dict.
        output: `LOGITS` or `PROBABILITIES`.
    """
    try:
        model = onnxslim.slim(raw)
    except Exception as error:
        raise PpclsExtError(f"onnxslim cannot simplify the converted graph: {one_line(error)}") from error
    graph = _Graph(model, parameter_names)
    graph.reshape_to_flatten()
    graph.matmul_to_gemm()
    graph.restore_zero_biases()
    if opset(model) >= gelu.FIRST_OPSET:
        graph.nodes = gelu.fuse_gelu(graph.nodes, graph.constants)
    graph.rename(output)
    opsets = [helper.make_opsetid("", opset(model))]
    clean = helper.make_model(
        graph.build(name),
        producer_name="ppcls_ext",
        producer_version=ppcls_ext.__version__,
        opset_imports=opsets,
        ir_version=helper.find_min_ir_version_for(opsets),
    )
    return shape_inference.infer_shapes(clean, data_prop=True)


class _Graph:
    """A graph without control flow, as lists that can be changed."""

    def __init__(self, model: onnx.ModelProto, parameter_names: Mapping[str, str]) -> None:
        self.parameter_names = parameter_names
        inferred = shape_inference.infer_shapes(model, data_prop=True).graph
        self.nodes = list(inferred.node)
        self.constants = {tensor.name: tensor for tensor in inferred.initializer}
        (self.input,) = inferred.input
        (self.output,) = inferred.output
        self.shapes = {
            value.name: [dim.dim_value or dim.dim_param for dim in value.type.tensor_type.shape.dim]
            for value in [*inferred.value_info, self.input, self.output]
        }

    def reshape_to_flatten(self) -> None:
        """Reshape from (N, C, H, W) to (N, C·H·W) becomes Flatten, which needs no constant and says what it does."""
        for index, node in enumerate(self.nodes):
            if node.op_type != "Reshape":
                continue
            before, after = (self.shapes.get(value, []) for value in (node.input[0], node.output[0]))
            sizes = before[1:]
            if len(before) > 1 and all(type(size) is int for size in sizes) and after[1:] == [int(np.prod(sizes))]:
                self.nodes[index] = helper.make_node("Flatten", node.input[:1], node.output, axis=1)

    def matmul_to_gemm(self) -> None:
        """x·W with x: (N, C), and + b where it follows, becomes one Gemm."""
        for node in [node for node in self.nodes if node.op_type == "MatMul"]:
            if len(self.shapes.get(node.input[0], [])) != 2 or node.input[1] not in self.constants:
                continue
            inputs, output = list(node.input), node.output[0]
            users = [user for user in self.nodes if output in user.input]
            if len(users) == 1 and users[0].op_type == "Add" and output != self.output.name:
                (bias,) = (value for value in users[0].input if value != output)
                if bias in self.constants and len(self.constants[bias].dims) == 1:
                    self.nodes.remove(users[0])
                    inputs, output = [*inputs, bias], users[0].output[0]
            self.nodes[self.nodes.index(node)] = helper.make_node("Gemm", inputs, [output])

    def restore_zero_biases(self) -> None:
        """Gives back the biases that onnxslim drops because they are zero: the nodes must not depend on the weights."""
        known = set(self.parameter_names.values())
        for node in self.nodes:
            bias = f"{self._layer(node)}.bias"
            if node.op_type in ("Conv", "Gemm") and len(node.input) == 2 and bias in known:
                channels = self.constants[node.input[1]].dims[0 if node.op_type == "Conv" else 1]
                self.constants[bias] = numpy_helper.from_array(np.zeros(channels, np.float32))
                node.input.append(bias)

    def rename(self, output: str) -> None:
        """Names everything by the state dict or by order; Paddle's own names count the layers ever made."""
        names = {self.input.name: INPUT, self.output.name: output}
        if output == PROBABILITIES:
            names[_producer(self.nodes, self.output.name).input[0]] = LOGITS
        taken: set[str] = set()
        for node in self.nodes:
            layer = self._layer(node)
            node.name = _unique(layer, taken) if layer else _unique(f"{node.op_type}_0", taken)
            for position, value in enumerate(node.input):
                if value in self.constants:
                    # onnxslim makes a convolution's bias from the Add behind it
                    own = f"{layer}.bias" if layer and position == 2 else f"{node.name}.constant_{position}"
                    names.setdefault(value, self.parameter_names.get(value, own))
            for position, value in enumerate(node.output):
                names.setdefault(value, f"{node.name}.output_{position}")
        for node in self.nodes:
            node.input[:] = [names.get(value, "") for value in node.input]
            node.output[:] = [names[value] for value in node.output]
        self.input.name, self.output.name = INPUT, output
        self.constants = {names[old]: tensor for old, tensor in self.constants.items() if old in names}

    def _layer(self, node: onnx.NodeProto) -> str:
        """The layer whose weight the node uses, by its name in the state dict; "" for a node without one."""
        weight = self.parameter_names.get(node.input[1], "") if len(node.input) > 1 else ""
        return weight[: -len(".weight")] if weight.endswith(".weight") else ""

    def build(self, name: str) -> onnx.GraphProto:
        """The graph, its constants in order of use, the free batch named."""
        for value in (self.input, self.output):
            batch = value.type.tensor_type.shape.dim[0]
            if not batch.dim_value:
                batch.dim_param = BATCH
        used = dict.fromkeys(value for node in self.nodes for value in node.input if value in self.constants)
        constants = [numpy_helper.from_array(numpy_helper.to_array(self.constants[value]), value) for value in used]
        return helper.make_graph(self.nodes, name, [self.input], [self.output], constants)


def opset(model: onnx.ModelProto) -> int:
    """The version of ONNX's standard operators that the model uses."""
    return next(entry.version for entry in model.opset_import if not entry.domain)


def set_properties(model: onnx.ModelProto, properties: Mapping[str, str]) -> None:
    """Sets the model's `metadata_props`, sorted."""
    helper.set_model_props(model, dict(sorted(properties.items())))


def check(model: onnx.ModelProto) -> None:
    """Raises PpclsExtError where ONNX's own checker refuses the model."""
    try:
        onnx.checker.check_model(model, full_check=True)
    except Exception as error:
        raise PpclsExtError(
            f"the converted graph is not valid ONNX ({one_line(error)}); nothing was written"
        ) from error


def with_logits(model: onnx.ModelProto, content: bytes) -> bytes:
    """The content of a model's file, and behind it, where it ends in Softmax, one more output: its logits.

    protobuf reads what stands one behind the other as one, so that onnxruntime loads the file's own bytes.
    """
    (output,) = model.graph.output
    name = logits_name(model)
    more = onnx.ModelProto()
    if name != output.name:
        more.graph.output.add().CopyFrom(output)
        more.graph.output[0].name = name
    return content + more.SerializeToString()


def count_nodes(model: onnx.ModelProto) -> dict[str, int]:
    """Number of nodes by operator, the commonest first."""
    counts: dict[str, int] = {}
    for node in model.graph.node:
        counts[node.op_type] = counts.get(node.op_type, 0) + 1
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def shape_text(value: onnx.ValueInfoProto) -> str:
    """For example "image (batch, 3, 224, 224)"."""
    dims: Iterable = (dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim)
    return f"{value.name} ({', '.join(map(str, dims))})"


def _producer(nodes: Iterable[onnx.NodeProto], value: str) -> onnx.NodeProto:
    return next(node for node in nodes if value in node.output)


def _unique(name: str, taken: set[str]) -> str:
    """`name`, counted up where it is taken: a layer that is called twice has two nodes."""
    stem, number = re.sub(r"_\d+$", "", name), 0
    while name in taken:
        number += 1
        name = f"{stem}_{number}"
    taken.add(name)
    return name
