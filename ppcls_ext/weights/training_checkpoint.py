"""Finding the weights in a training checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Union

import numpy as np

from ppcls_ext.weights.arrays import Tensor

Leaf = Union[np.ndarray, Tensor]

# The first of these that holds tensors is taken. Averaged weights come first, as in timm: their accuracy is the one
# that is published.
WRAPPERS = (
    "state_dict_ema",
    "model_ema",
    "ema_state_dict",
    "ema",
    "state_dict",
    "model_state_dict",
    "model_state",
    "model",
    "net",
    "network",
    "module",
    "weights",
    "params",
)
# Of nn.DataParallel and DistributedDataParallel, of torch.compile, and of both around each other
PARALLEL_PREFIXES = ("module.", "_orig_mod.", "module.")


def find_state_dict(content: object, depth: int = 2) -> tuple[list[str], dict[str, Leaf]] | None:
    """Returns the path of keys to the weights in what a file holds, and the weights; None if there are none.

    A dict is searched below the keys in `WRAPPERS`, in their order, up to `depth` levels deep; only if none of them
    leads to tensors does it count as a state dict itself, and then its entries that are no tensors are left out.
    """
    if not isinstance(content, Mapping):
        return None
    if depth > 0:
        for key in WRAPPERS:
            found = find_state_dict(content.get(key), depth - 1)
            if found:
                return [key, *found[0]], found[1]
    tensors = {name: value for name, value in content.items() if isinstance(value, (np.ndarray, Tensor))}
    return ([], tensors) if tensors else None


def without_parallel_prefix(weights: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns `weights` without the prefix that a parallel or compiled wrapper put before every name."""
    for prefix in PARALLEL_PREFIXES:
        if all(name.startswith(prefix) for name in weights):
            weights = {name[len(prefix) :]: value for name, value in weights.items()}
    return weights
