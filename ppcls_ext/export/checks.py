"""Is a quantized file good: does it name the same classes, and does it really run in integers?"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx

from ppcls_ext.predict.onnx_file import open_session

#: What onnxruntime runs in floats; none of it may be left.
FLOAT_OPERATORS = ("Conv", "FusedConv", "Gemm", "FusedGemm", "MatMul", "FusedMatMul")


def classes_of(model: onnx.ModelProto, pictures: np.ndarray) -> Iterator[int]:
    """The class that the network names for each of `pictures` (N, 3, H, W)."""
    running = open_session(model)
    (value,) = running.get_inputs()
    batch = value.shape[0] if isinstance(value.shape[0], int) else 1
    for start in range(0, len(pictures), batch):
        images = pictures[start : start + batch]
        filled = np.resize(images, (batch, *images.shape[1:]))
        yield from running.run(None, {value.name: filled})[0][: len(images)].argmax(axis=1).tolist()


def running_operators(model: onnx.ModelProto) -> Counter[str]:
    """The operators of the graph that onnxruntime makes of a model on this machine, counted."""
    with tempfile.TemporaryDirectory(prefix="ppcls_ext_") as folder:
        path = str(Path(folder, "optimized.onnx"))
        open_session(model, optimized=path)
        return Counter(node.op_type for node in onnx.load(path).graph.node)
