"""Paddle's `.pdparams`: one pickle of names and NumPy arrays, as `paddle.save` writes it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ppcls_ext.weights.arrays import Tensor, plain, sizes, widen_bfloat16
from ppcls_ext.weights.bounded import BoundedFile
from ppcls_ext.weights.harmless import COMMON
from ppcls_ext.weights.numpy_pickles import PickledArray, numpy_globals
from ppcls_ext.weights.pickles import Unpickler

# Paddle's own spelling; protocols 2 and 3 cannot hold 4 GiB, so larger arrays are saved in flat parts
_PARTS = "UnpackBigParamInfor@@"
_NAMES = "StructuredToParameterName@@"


class PaddleArray(PickledArray):
    """An array of Paddle's, which keeps bfloat16 as uint16 (and takes any uint16 for bfloat16)."""

    def read(self, file: BoundedFile) -> np.ndarray:
        """Returns the array, bfloat16 as float32."""
        array = super().read(file)
        return widen_bfloat16(array, file) if array.dtype == np.uint16 else array


class JoinedArray(Tensor):
    """An array saved in flat parts."""

    def __init__(self, parts: list[PickledArray], shape: tuple[int, ...]) -> None:
        self._parts = parts
        self._shape = shape

    def read(self, file: BoundedFile) -> np.ndarray:
        """Returns the parts as one array."""
        parts = [part.read(file) for part in self._parts]
        file.spend(sum(part.nbytes for part in parts))
        return plain(np.concatenate(parts).reshape(self._shape), file)


def read_paddle(file: BoundedFile) -> object:
    """Returns what was saved: (nested) dicts whose tensors are `Tensor` objects. Names are structured names."""
    return _read(file, PaddleArray, _tensor_in_a_tuple)


def read_paddle_as_saved(file: BoundedFile) -> object:
    """Returns what `pickle.load` would: as `read_paddle`, but bfloat16 stays uint16 and tensors (name, tensor)."""
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
    """Stands for `tuple((name, array))`, which is how Paddle pickles a tensor outside of a flat state dict."""
    return _named_tensor(pair)[1]


def _named_tensor(pair: object) -> tuple[str, Tensor]:
    name, array = pair
    if not isinstance(name, str) or not isinstance(array, PickledArray):
        raise ValueError("a pair of name and array holds no array")
    return name, array
