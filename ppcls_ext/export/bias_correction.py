"""Sequential bias correction: what rounding does to the mean of a layer's outputs is taken out of its bias.

Layer by layer, each corrected on inputs that come from corrected layers (arXiv 1906.04721, 4.2). The quantized network
is run piece by piece, so that no layer is computed more than twice; between the pieces its values are kept in 8 bits.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx

from ppcls_ext.export.graph import run_piece
from ppcls_ext.export.qdq import QuantizedNetwork
from ppcls_ext.export.statistics import Progress, channel_means

_TYPES = {np.dtype(np.float32): onnx.TensorProto.FLOAT, np.dtype(np.uint8): onnx.TensorProto.UINT8}


def correct_biases(
    network: QuantizedNetwork, pictures: np.ndarray, means: Mapping[str, np.ndarray], progress: Progress
) -> None:
    """Corrects the biases in place.

    Args:
        network: its biases change.
        pictures: (N, 3, H, W).
        means: of each weighted node's output channels in fp32, on the same pictures.
        progress: told 1 after each layer.
    """
    kept = {network.input: pictures}
    waiting = [node.name for node in network.weighted]
    for node in network.weighted:
        (value,) = node.output
        total = sum(channel_means(array) * len(array) for array in _run(network, kept, [value])[value])
        network.set_bias(node, network.bias(node) + means[value] - total / len(pictures))
        waiting.remove(node.name)
        if waiting:
            kept = _advance(network, kept, set(waiting))
        progress(1)


def _run(network: QuantizedNetwork, kept: Mapping[str, np.ndarray], wanted: list[str]) -> dict[str, list[np.ndarray]]:
    piece = network.piece({name: _TYPES[array.dtype] for name, array in kept.items()}, wanted)
    found: dict[str, list[np.ndarray]] = {name: [] for name in wanted}
    for arrays in run_piece(piece, kept, wanted):
        for name, array in zip(wanted, arrays):
            found[name].append(array)
    return found


def _advance(network: QuantizedNetwork, kept: Mapping[str, np.ndarray], waiting: set[str]) -> dict[str, np.ndarray]:
    """The values between what can be computed now and what must wait for a layer."""
    makers = network.producers()
    computable = {network.input, *network.constants, ""}
    needed: dict[str, None] = {}
    for node in network.nodes:
        if node.name not in waiting and computable.issuperset(node.input):
            computable.update(node.output)
            continue
        for value in node.input:
            maker = makers.get(value)
            if value not in computable or maker is None:
                continue
            # eight bits take a quarter of the memory
            quantized = maker.op_type == "DequantizeLinear" and maker.input[0] not in network.constants
            if quantized or maker.op_type != "DequantizeLinear":
                needed[maker.input[0] if quantized else value] = None
    missing = [value for value in needed if value not in kept]
    found = _run(network, kept, missing) if missing else {}
    return {value: kept[value] if value in kept else np.concatenate(found[value]) for value in needed}
