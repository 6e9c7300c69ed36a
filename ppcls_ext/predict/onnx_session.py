"""Sessions of onnxruntime on the CPU that print nothing of their own: failures come as exceptions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ppcls_ext.packages import import_extra

if TYPE_CHECKING:
    import onnx
    import onnxruntime


def open_session(
    network: str | bytes | onnx.ModelProto, threads: int = 0, optimized: str = ""
) -> onnxruntime.InferenceSession:
    """Loads a network; what onnxruntime raises comes through.

    Args:
        network: the path of a file, its content, or a model.
        threads: of one operation; 0 leaves the choice to onnxruntime.
        optimized: where to write the graph that really runs.

    Raises:
        PpclsExtError: onnxruntime is missing.
    """
    onnxruntime = import_extra("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = threads
    options.optimized_model_filepath = optimized
    source = network if isinstance(network, (str, bytes)) else network.SerializeToString()
    return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
