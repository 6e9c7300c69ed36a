"""Weights that are numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ppcls_ext.errors import PpclsExtError


def require_finite(state: Mapping[str, Any], whose: str, what_to_do: str) -> None:
    """Raises PpclsExtError where an array or tensor of `state` holds NaN or infinity; names the first.

    Args:
        state: names to arrays or tensors; what is neither, or not of floats, is left out.
        whose: the beginning of the message.
        what_to_do: its end.
    """
    wrong = [name for name, value in state.items() if not _is_finite(value)]
    if wrong:
        more = f" and {len(wrong) - 1} more tensors" if len(wrong) > 1 else ""
        raise PpclsExtError(f"{whose} not finite: {wrong[0]}{more} hold NaN or infinity; {what_to_do}")


def _is_finite(value: Any) -> bool:
    array = value.numpy() if hasattr(value, "numpy") else value
    return not isinstance(array, np.ndarray) or array.dtype.kind != "f" or bool(np.isfinite(array).all())
