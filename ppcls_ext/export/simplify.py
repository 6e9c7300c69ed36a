"""From paddle2onnx's raw graph to a clean one: onnxslim first, then what onnxslim leaves."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

import numpy as np
import onnx
import onnxslim
from onnx import helper, shape_inference

import ppcls_ext
from ppcls_ext.errors import PpclsExtError, one_line
from ppcls_ext.export.gelu import fuse_gelu
from ppcls_ext.export.graph import Graph
from ppcls_ext.export.opset import GELU_OPSET, opset_of
from ppcls_ext.predict.metadata import LOGITS

INPUT = "image"
#: Names of what is free, by axis.
FREE = {0: "batch", 2: "height", 3: "width"}


def simplify(raw: onnx.ModelProto, name: str, parameter_names: Mapping[str, str], output: str) -> onnx.ModelProto:
    """Simplifies and names a converted graph; its mathematics stay the same.

    Afterwards there are no constant or identity nodes, biases are inside the convolutions, the classifier is one Gemm
    behind one Flatten (which keeps any batch), and all names follow from the model alone: equal models, equal files.

    Args:
        raw: one input (N, C, H, W), one output (N, classes); with Softmax or Sigmoid at the end where `output` is
            `PROBABILITIES` or `SCORES`.
        name: of the graph.
        parameter_names: Paddle's name of each parameter → its name in the state dict.
        output: `LOGITS`, `PROBABILITIES` or `SCORES`.

    Raises:
        PpclsExtError: onnxslim fails on the graph.
    """
    try:
        slim = onnxslim.slim(raw)
    except Exception as error:
        raise PpclsExtError(f"onnxslim cannot simplify the converted graph: {one_line(error)}") from error
    opset = opset_of(slim)
    graph = Graph(shape_inference.infer_shapes(slim, data_prop=True))
    reshape_to_flatten(graph)
    matmul_to_gemm(graph)
    restore_zero_biases(graph, parameter_names)
    if opset >= GELU_OPSET:
        fuse_gelu(graph)
    opsets = [helper.make_opsetid("", opset)]
    clean = helper.make_model(
        _renamed(graph, name, parameter_names, output),
        producer_name="ppcls_ext",
        producer_version=ppcls_ext.__version__,
        opset_imports=opsets,
        ir_version=helper.find_min_ir_version_for(opsets),
    )
    return shape_inference.infer_shapes(clean, data_prop=True)


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


def reshape_to_flatten(graph: Graph) -> None:
    """Makes Reshape from (N, C, H, W) to (N, C·H·W) a Flatten, which needs no constant and says what it does."""
    for index, node in enumerate(graph.nodes):
        if node.op_type != "Reshape":
            continue
        before, after = (graph.shapes.get(value, []) for value in (node.input[0], node.output[0]))
        sizes = [size for size in before[1:] if isinstance(size, int)]
        if len(before) == len(sizes) + 1 > 1 and after[1:] == [math.prod(sizes)]:
            graph.nodes[index] = helper.make_node("Flatten", node.input[:1], node.output, axis=1)


def matmul_to_gemm(graph: Graph) -> None:
    """Makes x·W with x: (N, C), and + b where it follows, one Gemm."""
    for node in [node for node in graph.nodes if node.op_type == "MatMul"]:
        if len(graph.shapes.get(node.input[0], [])) != 2 or node.input[1] not in graph.constants:
            continue
        inputs, output = list(node.input), node.output[0]
        users = [user for user in graph.nodes if output in user.input]
        if len(users) == 1 and users[0].op_type == "Add" and output != graph.output:
            (bias,) = (value for value in users[0].input if value != output)
            if bias in graph.constants and graph.constants[bias].ndim == 1:
                graph.nodes.remove(users[0])
                inputs, output = [*inputs, bias], users[0].output[0]
        graph.nodes[graph.nodes.index(node)] = helper.make_node("Gemm", inputs, [output])


def restore_zero_biases(graph: Graph, parameter_names: Mapping[str, str]) -> None:
    """Gives back the biases that onnxslim drops because they are zero: the nodes must not depend on the weights."""
    known = set(parameter_names.values())
    for node in graph.nodes:
        bias = f"{_layer_of(node, parameter_names)}.bias"
        if node.op_type in ("Conv", "Gemm") and len(node.input) == 2 and bias in known:
            channels = graph.constants[node.input[1]].shape[0 if node.op_type == "Conv" else 1]
            graph.constants[bias] = np.zeros(channels, np.float32)
            node.input.append(bias)


def _renamed(graph: Graph, name: str, parameter_names: Mapping[str, str], output: str) -> onnx.GraphProto:
    """Names everything by the state dict or by order: Paddle's own names count the layers ever made."""
    names = {graph.input: INPUT, graph.output: output}
    if output != LOGITS:
        names[graph.producers()[graph.output].input[0]] = LOGITS
    taken: set[str] = set()
    for node in graph.nodes:
        layer = _layer_of(node, parameter_names)
        node.name = _unique(layer, taken) if layer else _unique(f"{node.op_type}_0", taken)
        for position, value in enumerate(node.input):
            if value in graph.constants:
                # onnxslim makes a convolution's bias from the Add behind it
                own = f"{layer}.bias" if layer and position == 2 else f"{node.name}.constant_{position}"
                names.setdefault(value, parameter_names.get(value, own))
        for position, value in enumerate(node.output):
            names.setdefault(value, f"{node.name}.output_{position}")
    for node in graph.nodes:
        node.input[:] = [names.get(value, "") for value in node.input]
        node.output[:] = [names[value] for value in node.output]
    graph.constants = {names[old]: array for old, array in graph.constants.items() if old in names}
    ends = [onnx.ValueInfoProto(), onnx.ValueInfoProto()]
    for end, given, new in zip(ends, (graph.model.graph.input[0], graph.model.graph.output[0]), (INPUT, output)):
        end.CopyFrom(given)
        end.name = new
        for axis, side in enumerate(end.type.tensor_type.shape.dim):
            if axis in FREE and not side.dim_value:
                side.dim_param = FREE[axis]
    return helper.make_graph(graph.nodes, name, ends[:1], ends[1:], graph.initializers(graph.nodes))


def _layer_of(node: onnx.NodeProto, parameter_names: Mapping[str, str]) -> str:
    """Returns the layer whose weight the node uses, by its name in the state dict; "" for a node without one."""
    weight = parameter_names.get(node.input[1], "") if len(node.input) > 1 else ""
    return weight[: -len(".weight")] if weight.endswith(".weight") else ""


def _unique(name: str, taken: set[str]) -> str:
    """Returns `name`, counted up where it is taken: a layer that is called twice has two nodes."""
    stem, number = re.sub(r"_\d+$", "", name), 0
    while name in taken:
        number += 1
        name = f"{stem}_{number}"
    taken.add(name)
    return name
