"""GELU as one node: paddle2onnx writes x·½·(1 + erf(x/√2)) as five, though ONNX has Gelu from opset 20 on."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
from onnx import helper, numpy_helper

FIRST_OPSET = 20


def fuse_gelu(nodes: list[onnx.NodeProto], constants: Mapping[str, onnx.TensorProto]) -> list[onnx.NodeProto]:
    """The nodes with each GELU as one; others as they were."""
    replaced: dict[int, onnx.NodeProto | None] = {}
    for node in nodes:
        chain = _chain(node, nodes, constants)
        if chain:
            replaced.update((id(part), None) for part in chain[:-1])
            replaced[id(chain[-1])] = helper.make_node("Gelu", [node.input[0]], chain[-1].output)
    kept = (replaced.get(id(node), node) for node in nodes)
    return [node for node in kept if node is not None]


def _chain(
    first: onnx.NodeProto, nodes: list[onnx.NodeProto], constants: Mapping[str, onnx.TensorProto]
) -> list[onnx.NodeProto]:
    """The five nodes of the GELU that starts with a division, in order; none where it is something else."""
    source, chain = first.input[0] if first.input else "", [first]
    expected = (("Div", np.sqrt(2)), ("Erf", None), ("Add", 1.0), ("Mul", source), ("Mul", 0.5))
    if first.op_type != "Div":
        return []
    for operator, other in expected:
        node = chain[-1]
        value = node.input[1] if len(node.input) > 1 and len(chain) == 1 else _other(node, chain)
        same = value == other if isinstance(other, str) or other is None else _is(constants.get(value), other)
        if node.op_type != operator or not same:
            return []
        if len(chain) < len(expected):
            readers = [reader for reader in nodes if node.output[0] in reader.input]
            if len(readers) != 1:
                return []
            chain.append(readers[0])
    return chain


def _other(node: onnx.NodeProto, chain: list[onnx.NodeProto]) -> str | None:
    """What a node reads beside the result of the node before it; None for nothing."""
    return next((value for value in node.input if value not in chain[-2].output), None)


def _is(constant: onnx.TensorProto | None, expected: float) -> bool:
    values = numpy_helper.to_array(constant) if constant is not None else np.zeros(0)
    return values.size == 1 and bool(np.isclose(values.item(), expected, rtol=1e-6))
