"""Addresses of tensors, checked before oneDNN reads or writes there."""

from __future__ import annotations

import math

from paddle import Tensor

from ppcls_ext.errors import PpclsExtError


def address(tensor: Tensor, count: int, exact: bool = True) -> int:
    """Where the numbers of a float32 tensor on the CPU lie.

    Args:
        tensor: contiguous.
        count: how many numbers will be read or written there.
        exact: whether the tensor has to hold just as many; more are enough otherwise.

    Raises:
        PpclsExtError: the tensor holds another number of them, or holds them with gaps.
    """
    held = math.prod(tensor.shape)
    if held < count or (exact and held != count):
        raise PpclsExtError(
            f"a tensor of shape {list(tensor.shape)} has {held} numbers where {count} are expected: "
            "γ, β, bias and statistics need one for each channel of the map, kernels the map's channels"
        )
    if not tensor.is_contiguous():
        raise PpclsExtError(f"a tensor of shape {list(tensor.shape)} is not contiguous: pass tensor.contiguous()")
    return tensor.data_ptr()
