"""Versions of ONNX's standard operators (opsets): which ones the export writes, and what each form needs."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx

#: Those that the export writes.
OPSETS = range(11, 21)
DEFAULT_OPSET = 17
#: The first one whose DequantizeLinear has a scale per channel, as int8 weights need it.
CHANNEL_SCALES_OPSET = 13
#: The first one with GELU as a single operator, which int8 needs.
GELU_OPSET = 20
#: The default for int8.
INT8_OPSET = GELU_OPSET


def opset_of(model: onnx.ModelProto) -> int:
    """Returns the version of ONNX's standard operators that the model uses."""
    return next(entry.version for entry in model.opset_import if not entry.domain)
