"""Addresses of tensors, checked before oneDNN reads or writes there."""

from __future__ import annotations

import math

from paddle import Tensor

from ppcls_ext.errors import PpclsExtError

#: The kinds of numbers that maps hold, each by the bytes of one.
FLOAT32, BFLOAT16 = 4, 2


def address(tensor: Tensor, count: int, exact: bool = True, numbers: int = FLOAT32) -> int:
    """Where the numbers of a tensor on the CPU lie.

    Args:
        tensor: contiguous.
        count: how many numbers will be read or written there.
        exact: whether the tensor has to hold just as many; more are enough otherwise.
        numbers: their kind, `FLOAT32` or `BFLOAT16`.

    Raises:
        PpclsExtError: the tensor holds another number of them, or others, or holds them with gaps.
    """
    held = math.prod(tensor.shape)
    if held < count or (exact and held != count):
        raise PpclsExtError(
            f"a tensor of shape {list(tensor.shape)} has {held} numbers where {count} are expected: "
            "γ, β, bias and statistics need one for each channel of the map, kernels the map's channels"
        )
    if tensor.element_size() != numbers:
        expected = "bfloat16" if numbers == BFLOAT16 else "float32"
        raise PpclsExtError(f"a tensor of shape {list(tensor.shape)} is {tensor.dtype}: expected {expected}")
    if not tensor.is_contiguous():
        raise PpclsExtError(f"a tensor of shape {list(tensor.shape)} is not contiguous: pass tensor.contiguous()")
    return tensor.data_ptr()


def is_half(x: Tensor) -> bool:
    """Whether a map of ours is bfloat16, float32 otherwise; comparing `dtype` takes ten times as long."""
    return x.element_size() == BFLOAT16
