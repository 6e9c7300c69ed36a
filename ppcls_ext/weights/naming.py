"""Names and layouts: from a file's tensors to a model's state dict.

Four namings are known. This project's own is PaddleClas's for RepVGG and FasterNet and, with Paddle's `_mean` and
`_variance`, the official one for MobileOne; so the official PyTorch namings need only the general rules below, and
timm's needs the table that each family keeps as `timm_names`.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

#: (pattern, replacement) pairs for `re.sub`, applied in order.
Renaming = Sequence[tuple[str, Any]]

#: PyTorch's suffixes, and Paddle's for the same tensors.
TORCH_SUFFIXES = {".running_mean": "._mean", ".running_var": "._variance"}
#: The batch counter of PyTorch's batch normalisation; Paddle has no such tensor.
TORCH_ONLY = ".num_batches_tracked"


#: What other programs put before the names of a net that they wrap: several processes, a detector, a compiled model.
PREFIXES = frozenset(("module", "model", "net", "network", "backbone", "encoder", "_layers", "_orig_mod"))


def are_fused(names: Iterable[str]) -> bool:
    """Returns whether tensors of these names (in any naming) belong to a fused model: it has no running statistics."""
    return not any(name.endswith(("._variance", ".running_var")) for name in names)


class Named(NamedTuple):
    """Renamed tensors.

    Attributes:
        tensors: the arrays under a model's state-dict names.
        naming: the naming that they had: "official", "timm" or "PaddleClas".
        prefix: what stood before the names, such as "module."; "" where nothing did.
    """

    tensors: dict[str, np.ndarray]
    naming: str
    prefix: str = ""


def to_model_names(
    arrays: Mapping[str, np.ndarray],
    expected: Mapping[str, tuple[int, ...]],
    timm_names: Renaming,
    paddle_layout: bool,
) -> Named:
    """Renames `arrays` the way that fits `expected` best and brings them to Paddle's layouts.

    Args:
        arrays: name → array, in any of the known namings.
        expected: name → shape of the model's state dict.
        timm_names: the renaming from timm's to the official names.
        paddle_layout: whether the file's format suggests Paddle's layout of linear weights, (in, out); names (`_mean`
            is Paddle's, `running_mean` PyTorch's) and shapes take precedence.
    """
    candidates = {}
    for prefix in dict.fromkeys(("", _most_common_wrapper(arrays))):
        bare = {name[len(prefix) :] if name.startswith(prefix) else name: array for name, array in arrays.items()}
        if len(bare) < len(arrays):
            continue  # two tensors would have one name
        for naming, tensors in (("official", bare), ("timm", _substitute(bare, timm_names))):
            candidates[naming, prefix] = _without_torch_names(tensors)
    naming, prefix = max(candidates, key=lambda key: sum(name in expected for name in candidates[key]))
    chosen = candidates[naming, prefix]
    if any(name.endswith(tuple(TORCH_SUFFIXES)) for name in arrays):
        paddle_layout = False
    elif any(name.endswith(tuple(TORCH_SUFFIXES.values())) for name in arrays):
        paddle_layout, naming = True, "PaddleClas"
    tensors = {name: _to_layout(array, expected.get(name), paddle_layout) for name, array in chosen.items()}
    return Named(tensors, naming, prefix)


def _most_common_wrapper(names: Iterable[str]) -> str:
    """Returns the words of `PREFIXES` that most names begin with, with their dots: "", "module.", "model.backbone."."""
    counts: Counter[str] = Counter()
    for name in names:
        words = list(itertools.takewhile(PREFIXES.__contains__, name.split(".")[:-1]))
        counts["".join(f"{word}." for word in words)] += 1
    return max(counts, key=lambda prefix: counts[prefix], default="")


def to_torch_names(state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns a model's state dict under the official PyTorch names and in PyTorch's layouts."""
    result = {}
    for name, array in state.items():
        for torch_suffix, suffix in TORCH_SUFFIXES.items():
            if name.endswith(suffix):
                name = name[: -len(suffix)] + torch_suffix
        result[name] = np.ascontiguousarray(array.T if array.ndim == 2 else array)
    return result


def _substitute(arrays: Mapping[str, np.ndarray], pairs: Renaming) -> dict[str, np.ndarray]:
    result = {}
    for name, array in arrays.items():
        for pattern, replacement in pairs:
            name = re.sub(pattern, replacement, name)
        result[name] = array
    return result


def _without_torch_names(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    result = {}
    for name, array in arrays.items():
        if name.endswith(TORCH_ONLY):
            continue
        for torch_suffix, suffix in TORCH_SUFFIXES.items():
            if name.endswith(torch_suffix):
                name = name[: -len(torch_suffix)] + suffix
        result[name] = array
    return result


def _to_layout(array: np.ndarray, expected: tuple[int, ...] | None, paddle_layout: bool) -> np.ndarray:
    """Brings a linear weight to Paddle's (in, out), or a 1×1 convolution that stands for one to a matrix."""
    if expected is None or len(expected) != 2:
        return array
    if array.ndim == 4 and array.shape[2:] == (1, 1):
        array = array[:, :, 0, 0]
    if array.ndim != 2:
        return array
    fits, fits_transposed = array.shape[0] == expected[0], array.shape[1] == expected[0]
    keep = fits and (paddle_layout or not fits_transposed)
    return array if keep else np.ascontiguousarray(array.T)
