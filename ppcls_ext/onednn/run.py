"""Runs a primitive on tensors."""

from __future__ import annotations

from collections.abc import Callable

from paddle import Tensor

from ppcls_ext.onednn.bfloat16 import has_primitives
from ppcls_ext.onednn.find import loaded
from ppcls_ext.onednn.library import Primitive, UnsupportedError
from ppcls_ext.onednn.memory import address, is_half


def run(build: Callable[..., Primitive], sizes: tuple, *tensors: Tensor, all_channels: bool = True) -> bool:
    """Runs the primitive on inputs and outputs; False where oneDNN has no fast one.

    `all_channels`: false where the primitive reads and writes the first channels of its maps only. The kind of numbers
    is that of the first tensor.

    Raises:
        PpclsExtError: a tensor does not hold as many numbers as the primitive reads or writes, or holds them with gaps.
    """
    found, x = loaded(), tensors[0]
    if not computes(x):
        return False
    sizes = (*sizes, x.element_size())
    try:
        primitive = found.primitive((build, *sizes), build, *sizes)
    except UnsupportedError:
        return False
    places = zip(tensors, primitive.memory)
    primitive(*[address(tensor, count, all_channels, numbers) for tensor, (count, numbers) in places])
    return True


def computes(x: Tensor) -> bool:
    """Whether oneDNN computes with such numbers."""
    return not is_half(x) or has_primitives()
