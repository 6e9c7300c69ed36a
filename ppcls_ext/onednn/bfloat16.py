"""Mixed precision on a CPU: maps and products in bfloat16, which Paddle's own operations cannot compute there.

Inside `mixed_precision`, convolutions round maps and kernels to bfloat16 (8 bits of precision, float32's range) and add
their products in float32. Statistics, parameters and the gradients of these stay float32. Between the layers of a net
of ours (`kept_between_layers`) maps stay bfloat16; elsewhere each operation takes and gives float32 maps, since nothing
else on a CPU can read others.
"""

from __future__ import annotations

import contextlib
import functools
import warnings
from collections.abc import Iterator
from contextvars import ContextVar

import paddle
from paddle import Tensor

from ppcls_ext.onednn import builders
from ppcls_ext.onednn.arena import empty_map
from ppcls_ext.onednn.find import library, loaded
from ppcls_ext.onednn.memory import BFLOAT16, FLOAT32, address, is_half
from ppcls_ext.onednn.self_check import bfloat16_fault

_on, _stays = ContextVar("_on", default=False), ContextVar("_stays", default=False)


def mixed_precision(enabled: bool = True) -> contextlib.AbstractContextManager[None]:
    """See `ppcls_ext.mixed_precision`."""
    if paddle.device.get_device() != "cpu":
        return paddle.amp.auto_cast(enable=enabled, dtype="bfloat16")
    if enabled and (lack := lacking()) is not None:
        warnings.warn(f"{lack}: float32 is used", stacklevel=3)
        enabled = False
    return _within(_on, enabled)


def is_on() -> bool:
    """Whether this thread is inside of `mixed_precision`, on a processor that has bfloat16."""
    return _on.get()


def kept_between_layers(enabled: bool = True) -> contextlib.AbstractContextManager[None]:
    """Within, what an operation of mixed precision gives stays bfloat16: only operations of ours read it."""
    return _within(_stays, enabled)


def stays() -> bool:
    """Whether maps stay bfloat16 between operations."""
    return _stays.get()


@contextlib.contextmanager
def _within(variable: ContextVar[bool], value: bool) -> Iterator[None]:
    token = variable.set(value)
    try:
        yield
    finally:
        variable.reset(token)


def lacking() -> str | None:
    """What keeps this machine from bfloat16 on its CPU, such as "the processor has no bfloat16 instructions …"."""
    found = library()
    if found is None:
        return "bfloat16 needs the oneDNN of Paddle's wheel for Linux or Windows, which is missing or switched off"
    if not found.has_bfloat16:
        return "the processor has no bfloat16 instructions (AVX-512 BF16 or AMX)"
    return None if has_primitives() else "Paddle's oneDNN does not compute in bfloat16 as it should here"


def instructions() -> str:
    """By what the processor computes in bfloat16: "AMX" or "AVX-512 BF16"; "" if not at all."""
    found = library()
    if found is None or not has_primitives():
        return ""
    return "AMX" if found.has_amx else "AVX-512 BF16"


@functools.lru_cache(maxsize=1)
def has_primitives() -> bool:
    """Whether oneDNN computes in bfloat16 here, and as it is expected to."""
    found = library()
    if found is None or not found.has_bfloat16:
        return False
    fault = bfloat16_fault(found)
    if fault is not None:
        warnings.warn(f"Paddle's oneDNN does not compute in bfloat16 as it should here: {fault}", stacklevel=2)
    return fault is None


def to_bfloat16(rows: Tensor) -> Tensor:
    """A contiguous float32 tensor of four axes, rounded to the nearest (of two the even one); bfloat16 as it is."""
    return _converted(rows, "bfloat16") if not is_half(rows) else rows


def to_float32(rows: Tensor) -> Tensor:
    """A contiguous bfloat16 tensor of four axes as float32; another one as it is."""
    return _converted(rows, "float32") if is_half(rows) else rows


def _converted(rows: Tensor, dtype: str) -> Tensor:
    if not has_primitives():
        return rows.cast(dtype)
    kinds = (FLOAT32, BFLOAT16) if dtype == "bfloat16" else (BFLOAT16, FLOAT32)
    result, shape = empty_map(rows.shape, kinds[1]), tuple(rows.shape)
    primitive = loaded().primitive((builders.conversion, shape, *kinds), builders.conversion, shape, *kinds)
    places = zip((rows, result), primitive.memory)
    primitive(*[address(tensor, count, numbers=numbers) for tensor, (count, numbers) in places])
    return result
