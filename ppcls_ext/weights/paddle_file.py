"""Paddle's `.pdparams`, `.pdopt` and `.pdstates`: one pickle of names and NumPy arrays, as `paddle.save` writes it."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import numpy as np

from ppcls_ext.errors import PpclsExtError
from ppcls_ext.weights.bounded import BoundedFile, Tensor, opened, plain, sizes, widen_bfloat16
from ppcls_ext.weights.pickles import COMMON, PickledArray, Unpickler, numpy_globals

MAX_DEPTH = 32
"""Containers within containers. An optimizer's state has 3."""
ITEM = 64
"""Bytes that each item of a container costs of the allowance."""

# Paddle's own spelling; pickle protocols 2 and 3 cannot hold 4 GiB, so Paddle saves larger arrays in flat parts
_PARTS = "UnpackBigParamInfor@@"
_NAMES = "StructuredToParameterName@@"


class PaddleArray(PickledArray):
    """An array that Paddle saved: it stores bfloat16 as uint16 (and takes any uint16 for bfloat16)."""

    def read(self, file: BoundedFile) -> np.ndarray:
        """Returns the array, bfloat16 as float32."""
        array = super().read(file)
        return widen_bfloat16(array, file) if array.dtype == np.uint16 else array


class JoinedArray(Tensor):
    """An array that Paddle saved in flat parts."""

    def __init__(self, parts: list[PickledArray], shape: tuple[int, ...]) -> None:
        self._parts = parts
        self._shape = shape

    def read(self, file: BoundedFile) -> np.ndarray:
        """Returns the parts as one array."""
        parts = [part.read(file) for part in self._parts]
        file.spend(sum(part.nbytes for part in parts))
        return plain(np.concatenate(parts).reshape(self._shape), file)


def read_paddle(file: BoundedFile) -> object:
    """Reads the saved object: (nested) dicts whose tensors are `Tensor` objects, under their structured names."""
    return _read(file, PaddleArray, _tensor_in_a_tuple)


def read_paddle_as_saved(file: BoundedFile) -> object:
    """Reads what `pickle.load` would return: as `read_paddle`, but bfloat16 as uint16 and tensors as (name, tensor)."""
    return _read(file, PickledArray, _named_tensor)


def _read(file: BoundedFile, array: type[PickledArray], in_a_tuple: Callable) -> object:
    known = {**COMMON, **numpy_globals(array), "builtins.tuple": in_a_tuple}
    content = Unpickler(file, known).load()
    if isinstance(content, dict) and _PARTS in content:
        for name, entry in content.pop(_PARTS).items():
            parts = [content[part] for part in entry["slices"]]
            content[name] = JoinedArray(parts, sizes(entry["OriginShape"]))
            for part in entry["slices"]:
                del content[part]
    if isinstance(content, dict) and _NAMES in content:
        table = content[_NAMES]  # Paddle itself looks up each of its keys
        if not isinstance(table, dict) or not all(name in content and isinstance(table[name], str) for name in table):
            raise ValueError("its table of names does not fit its tensors")
    return content


def _tensor_in_a_tuple(pair: object) -> Tensor:
    """The substitute for `tuple((name, array))`, as which Paddle pickles a tensor outside of a flat state dict."""
    return _named_tensor(pair)[1]


def _named_tensor(pair: Any) -> tuple[str, Tensor]:
    name, array = pair
    if not isinstance(name, str) or not isinstance(array, PickledArray):
        raise ValueError("a pair of name and array holds no array")
    return name, array


def read_paddle_file(path: str | os.PathLike) -> object:
    """Reads everything in a file of `paddle.save`, such as an optimizer's state, without running any of it.

    Returns:
        Dicts, lists and tuples of numbers, strings and arrays (read-only; bfloat16 as float32).

    Raises:
        PpclsExtError: it cannot be read, is damaged, contains anything else, or unfolds to far more than its size.
    """
    with opened(path) as file:
        return with_arrays(read_paddle(file), file)


def with_arrays(content: object, file: BoundedFile, depth: int = 0) -> object:
    """Returns `content` with its tensors read.

    A pickle may contain one list many times over, and such lists in lists: a few bytes become endless for whoever walks
    through them. So the file's allowance pays for each occurrence.

    Raises:
        PpclsExtError: the allowance is used up, or containers are nested more than `MAX_DEPTH` deep.
    """
    file.spend(ITEM)
    if depth > MAX_DEPTH:
        raise PpclsExtError(f"refused: it is nested more than {MAX_DEPTH} deep, as no checkpoint is")
    if isinstance(content, Tensor):
        array = content.read(file)
        file.spend(array.nbytes)
        return array
    if isinstance(content, np.ndarray):
        raise ValueError("an array stands where none can be")
    if isinstance(content, dict):
        return {name: with_arrays(value, file, depth + 1) for name, value in content.items()}
    if isinstance(content, (list, tuple)):
        return type(content)(with_arrays(value, file, depth + 1) for value in content)
    return content
