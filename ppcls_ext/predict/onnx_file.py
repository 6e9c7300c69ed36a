"""An ONNX file before it is loaded: that it is there, and what it says about itself."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from ppcls_ext.errors import PpclsExtError, one_line
from ppcls_ext.files import open_regular
from ppcls_ext.packages import import_extra
from ppcls_ext.predict.metadata import Metadata

if TYPE_CHECKING:
    import onnx


def require_file(path: str | os.PathLike) -> None:
    """Raises PpclsExtError where the path is no file."""
    try:
        os.close(open_regular(path))
    except OSError as error:
        what = "there is no such file" if isinstance(error, FileNotFoundError) else error.strerror or str(error)
        raise PpclsExtError(f"{path}: {what}; export one with ppcls-ext export-onnx") from error


def read_metadata(path: str | os.PathLike, properties: dict[str, str] | None = None) -> Metadata:
    """What the file says, read from its properties, with the onnx package where they are not given.

    Raises:
        PpclsExtError: it is no ONNX file, or none of this project's.
    """
    try:
        return Metadata.from_properties(_properties(path) if properties is None else properties)
    except PpclsExtError as error:
        raise PpclsExtError(f"{path}: {error}") from error


def logits_name(model: onnx.ModelProto) -> str:
    """The name of a classifier's logits: its output, or what the Softmax at its end reads."""
    (output,) = model.graph.output
    last = next(node for node in model.graph.node if output.name in node.output)
    return last.input[0] if last.op_type == "Softmax" else output.name


def _properties(path: str | os.PathLike) -> dict[str, str]:
    onnx = import_extra("onnx")
    try:
        model = onnx.load(path, load_external_data=False)
    except Exception as error:  # protobuf's kinds have no common base
        raise PpclsExtError(f"onnx cannot read it ({one_line(error)}); expected an ONNX file") from error
    return {entry.key: entry.value for entry in model.metadata_props}
