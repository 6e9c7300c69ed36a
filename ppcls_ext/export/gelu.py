"""GELU as one node: paddle2onnx writes x·½·(1 + erf(x/√2)) as five, though ONNX has Gelu from opset 20."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper

from ppcls_ext.export.graph import Graph


def fuse_gelu(graph: Graph) -> None:
    """Makes each GELU of five nodes one."""
    replaced: dict[int, onnx.NodeProto | None] = {}
    for node in graph.nodes:
        chain = _gelu_chain(node, graph)
        if chain:
            replaced.update((id(part), None) for part in chain[:-1])
            replaced[id(chain[-1])] = helper.make_node("Gelu", [node.input[0]], chain[-1].output)
    kept = (replaced.get(id(node), node) for node in graph.nodes)
    graph.nodes = [node for node in kept if node is not None]


def _gelu_chain(first: onnx.NodeProto, graph: Graph) -> list[onnx.NodeProto]:
    """Returns the five nodes of the GELU that starts with the division `first`, in order; none for anything else."""
    source, chain = first.input[0] if first.input else "", [first]
    expected = (("Div", np.sqrt(2)), ("Erf", None), ("Add", 1.0), ("Mul", source), ("Mul", 0.5))
    if first.op_type != "Div":
        return []
    for operator, other in expected:
        node = chain[-1]
        value = node.input[1] if len(node.input) > 1 and len(chain) == 1 else _other_input(node, chain)
        same = value == other if isinstance(other, str) or other is None else _is(graph.constants.get(value), other)
        if node.op_type != operator or not same:
            return []
        if len(chain) < len(expected):
            readers = [reader for reader in graph.nodes if node.output[0] in reader.input]
            if len(readers) != 1:
                return []
            chain.append(readers[0])
    return chain


def _other_input(node: onnx.NodeProto, chain: list[onnx.NodeProto]) -> str | None:
    """Returns what a node reads beside the result of the node before it; None for nothing."""
    return next((value for value in node.input if value not in chain[-2].output), None)


def _is(constant: np.ndarray | None, expected: float) -> bool:
    return constant is not None and constant.size == 1 and bool(np.isclose(constant.item(), expected, rtol=1e-6))
