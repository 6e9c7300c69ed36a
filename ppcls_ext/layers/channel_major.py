"""Maps whose memory is ordered channel by channel, and elementwise work that keeps them so.

On a CPU the fastest forms of the branch sums are matrix products over `(C, N·H·W)`. Between such layers a map stays in
that order of memory while its tensor is the usual `(N, C, H, W)`: a transposed view. Handing the view on costs
nothing; any other operation gets a contiguous copy from Paddle by itself.
"""

from __future__ import annotations

from typing import Callable

import paddle
from paddle import Tensor

_SWAP = [1, 0, 2, 3]


def to_channel_major(x: Tensor) -> Tensor:
    """(N, C, H, W) → contiguous (C, N, H, W); no copy where the memory is in that order already."""
    return x.transpose(_SWAP).contiguous()


def from_channel_major(x: Tensor) -> Tensor:
    """(C, N, H, W) → a view (N, C, H, W)."""
    return x.transpose(_SWAP)


def is_channel_major(x: Tensor) -> bool:
    """Whether a map (N, C, H, W) is a view of a channel-major one."""
    return paddle.in_dynamic_mode() and x.ndim == 4 and not x.is_contiguous() and x.transpose(_SWAP).is_contiguous()


def elementwise(function: Callable[..., Tensor], x: Tensor, *others: Tensor) -> Tensor:
    """`function(x, *others)`, computed in the order that `x` has in memory.

    Args:
        function: elementwise, of tensors that broadcast.
        x: (N, C, H, W).
        *others: four axes each.
    """
    if is_channel_major(x):
        return from_channel_major(function(*(other.transpose(_SWAP) for other in (x, *others))))
    return function(x, *others)
