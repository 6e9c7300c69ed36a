"""NumPy arrays in pickles: what `.pdparams` files consist of, and what training checkpoints hold here and there."""

from __future__ import annotations

import re

import numpy as np

from ppcls_ext.errors import PpclsExtError
from ppcls_ext.weights.arrays import Tensor, from_bytes, sizes
from ppcls_ext.weights.bounded import BoundedFile
from ppcls_ext.weights.harmless import OPAQUE
from ppcls_ext.weights.pickles import Stateful, shown


class PickledType(Stateful):
    """A NumPy type as it is pickled: `dtype("f4")`, then a state that holds the byte order."""

    def __init__(self, code: object, *_flags: object) -> None:
        self._code = code
        self._order = "="

    def set_state(self, state: object) -> None:
        """Takes (version, byte order, ...)."""
        _version, self._order = state[:2]

    def dtype(self) -> np.dtype:
        """Returns the type, one of plain numbers.

        Raises:
            PpclsExtError: it is anything else.
        """
        if not isinstance(self._code, str):
            raise ValueError("an array's type has no name")
        if not re.fullmatch("[fiub][1248]", self._code):  # NumPy would accept much more
            raise PpclsExtError(f"holds an array of type {shown(self._code)}; expected plain real numbers or booleans")
        return np.dtype(self._code).newbyteorder(self._order if self._order in ("<", ">") else "=")


class PickledArray(Tensor, Stateful):
    """An array as it is pickled: an empty one, then a state with its type, shape and bytes."""

    def __init__(self) -> None:
        self.set_state((1, (), None, False, None))

    def set_state(self, state: object) -> None:
        """Takes (version, shape, type, whether in Fortran order, bytes)."""
        _version, self._shape, self._type, self._fortran, self._content = state

    def read(self, file: BoundedFile) -> np.ndarray:
        """Returns the array; only now is its state checked."""
        if not isinstance(self._type, PickledType):
            raise ValueError("an array has no type")
        dtype, content = self._type.dtype(), self._content
        if isinstance(content, str):  # Python 2's bytes, and Python 3's in protocol 2
            file.spend(len(content))
            content = content.encode("latin-1")
        if not isinstance(content, (bytes, bytearray)):
            raise ValueError("an array has no content")
        return from_bytes(content, dtype, sizes(self._shape), file, fortran=self._fortran is True)


def numpy_globals(array: type[PickledArray] = PickledArray) -> dict[str, object]:
    """Returns what stands for NumPy's names in a pickle; arrays become objects of the class `array`."""

    def reconstruct(*_arguments: object) -> PickledArray:
        return array()

    def from_buffer(content: object, element: object, shape: object, order: object) -> PickledArray:
        made = array()
        made.set_state((1, shape, element, order == "F", content))
        return made

    def scalar(element: object, content: object) -> object:
        """A number of NumPy's; only in what is saved beside weights, so what is none is as good as nothing."""
        bits = content.encode("latin-1") if isinstance(content, str) else content
        if not isinstance(element, PickledType) or not isinstance(bits, bytes) or len(bits) > 8:
            return OPAQUE
        return np.frombuffer(bits, element.dtype())[0].item()

    known = {
        "numpy.ndarray": OPAQUE,
        "numpy.dtype": lambda *arguments: PickledType(*arguments),
        # Protocol 2 writes bytes as a text to be encoded; PickledArray does that, once, when it is read
        "_codecs.encode": lambda text, _encoding: text,
        "builtins.bytes": lambda: b"",
    }
    for core in ("core", "_core"):  # before and since NumPy 2
        known[f"numpy.{core}.multiarray._reconstruct"] = reconstruct
        known[f"numpy.{core}.multiarray.scalar"] = scalar
        known[f"numpy.{core}.numeric._frombuffer"] = from_buffer
    return known
