"""Versions of ONNX's standard operators (opsets): which ones the export writes, and what each precision needs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ppcls_ext.errors import PpclsExtError

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

#: The precisions that the export writes, and what the names of their files end with.
PRECISIONS = {"float32": "", "float16": "_fp16", "int8": "_int8"}


def require_precision(precision: str, dynamic_size: bool = False) -> str:
    """Returns it.

    Raises:
        PpclsExtError: there is none of that name, or none for images of any size.
    """
    if precision not in PRECISIONS:
        raise PpclsExtError(f"precision is {precision!r}: expected {', '.join(PRECISIONS)}")
    if precision == "int8" and dynamic_size:
        raise PpclsExtError(
            "int8 and dynamic_size (--dynamic-size) exclude each other: int8 is calibrated and checked at one size"
        )
    return precision


def default_opset(precision: str) -> int:
    """Returns the opset that a file of a precision has unless another one is asked for."""
    return INT8_OPSET if precision == "int8" else DEFAULT_OPSET


def opset_of(model: onnx.ModelProto) -> int:
    """Returns the version of ONNX's standard operators that the model uses."""
    return next(entry.version for entry in model.opset_import if not entry.domain)
