"""PaddleClas's resizing, up to a size.

A picture of 1 × 60,000 px is harmless until its short side becomes 256 px, as `ResizeImage` does without asking: then
it takes 12 GB. Here it counts as a picture that cannot be read.
"""

from __future__ import annotations

import functools
from typing import Any

from ppcls_ext.errors import PpclsExtError

LARGEST = 1 << 27
"""Pixels of a resized picture."""


def bound_resizing() -> None:
    """Changes PaddleClas's `UnifiedResize` (data/preprocess/ops/operators.py); a second call changes nothing."""
    from ppcls.data.preprocess.ops.operators import UnifiedResize

    resize = UnifiedResize.__call__
    if hasattr(resize, "bounded"):
        return

    @functools.wraps(resize)
    def resize_within_bounds(self: Any, src: Any, size: Any) -> Any:
        width, height = size
        if width * height > LARGEST:
            raise PpclsExtError(f"resized to {width} × {height} px, the picture would be too large")
        return resize(self, src, size)

    resize_within_bounds.bounded = True
    UnifiedResize.__call__ = resize_within_bounds
