"""ONNX files: their existence, their metadata, the name of their logits, and sessions of onnxruntime."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from ppcls_ext.errors import PpclsExtError, one_line
from ppcls_ext.files import open_regular
from ppcls_ext.packages import import_extra
from ppcls_ext.predict.metadata import LOGITS, Metadata

if TYPE_CHECKING:
    import onnx
    import onnxruntime


def require_file(path: str | os.PathLike) -> None:
    """Raises PpclsExtError where the path is not a regular file."""
    try:
        os.close(open_regular(path))
    except OSError as error:
        what = "there is no such file" if isinstance(error, FileNotFoundError) else error.strerror or str(error)
        raise PpclsExtError(f"{path}: {what}; export one with ppcls-ext export-onnx") from error


def read_metadata(path: str | os.PathLike, properties: dict[str, str] | None = None) -> Metadata:
    """Reads the metadata of an exported file.

    Args:
        path: the ONNX file.
        properties: its `metadata_props`; where they are not given, the onnx package reads them.

    Raises:
        PpclsExtError: the file is not an ONNX file, or not one of this project's.
    """
    try:
        return Metadata.from_properties(_properties(path) if properties is None else properties)
    except PpclsExtError as error:
        raise PpclsExtError(f"{path}: {error}") from error


def ends_in_logits(path: str | os.PathLike, metadata: Metadata, output: str) -> bool:
    """Returns whether a file's output, of this name, still needs a softmax or sigmoid.

    Raises:
        PpclsExtError: the name is that of another task's scores.
    """
    try:
        return metadata.ends_in_logits(output)
    except PpclsExtError as error:
        raise PpclsExtError(f"{path}: {error}: export it again") from error


def logits_name(model: onnx.ModelProto) -> str:
    """Returns the name of a classifier's logits: its output, or the input of the Softmax or Sigmoid at its end."""
    (output,) = model.graph.output
    last = next(node for node in model.graph.node if output.name in node.output)
    return last.input[0] if output.name != LOGITS and last.op_type in ("Softmax", "Sigmoid") else output.name


def _properties(path: str | os.PathLike) -> dict[str, str]:
    onnx = import_extra("onnx")
    try:
        model = onnx.load(path, load_external_data=False)
    except Exception as error:  # protobuf's exceptions have no common base
        raise PpclsExtError(f"onnx cannot read it ({one_line(error)}); expected an ONNX file") from error
    return {entry.key: entry.value for entry in model.metadata_props}


def open_session(
    network: str | bytes | onnx.ModelProto, threads: int = 0, optimized: str = "", as_it_stands: bool = False
) -> onnxruntime.InferenceSession:
    """Loads a network into onnxruntime on the CPU, which prints nothing; its exceptions pass through.

    Args:
        network: the path of a file, the content of one, or a model.
        threads: number of threads of one operation; 0 leaves the choice to onnxruntime.
        optimized: the path where onnxruntime writes its optimized graph; by default it writes none.
        as_it_stands: whether each node is computed as the graph says, without any optimization.

    Raises:
        PpclsExtError: onnxruntime is missing.
    """
    onnxruntime = import_extra("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = threads
    options.optimized_model_filepath = optimized
    if as_it_stands:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    source = network if isinstance(network, (str, bytes)) else network.SerializeToString()
    return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
