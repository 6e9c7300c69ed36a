"""A safe replacement of `pickle` for Paddle's own loading (`paddle.load`, `paddle.static.load` and others).

Paddle unpickles whatever file PaddleClas hands to it, and unpickling runs the code that the file names. Only the
reading is replaced: Paddle builds the same structures from the content as before.
"""

from __future__ import annotations

import io
import pickle
import sys
from types import ModuleType
from typing import Any, BinaryIO

from ppcls_ext.errors import PpclsExtError
from ppcls_ext.hosts.adaptation import patch
from ppcls_ext.weights.bounded import BoundedFile, explained
from ppcls_ext.weights.paddle_file import read_paddle_as_saved, with_arrays

#: Where Paddle reads files: framework/io.py (load), static/io.py and pir_io.py, jit/translated_layer.py, hapi/model.py
#: (below fluid before 2.5), vision/datasets/cifar.py, which PaddleClas's Cifar10 is made of; and PaddleClas itself.
PLACES: tuple[str, ...] = (
    "paddle.framework",
    "paddle.static",
    "paddle.jit",
    "paddle.hapi",
    "paddle.base",
    "paddle.fluid",
)
PLACES += ("paddle.vision", "paddle.dataset", "ppcls.")
LARGEST_STREAM = 1 << 30
"""Bytes that are read of a stream that is not a file, such as a member of an archive."""


def read_pickle(stream: BinaryIO, **settings: Any) -> object:
    """Replaces `pickle.load`, for files that `paddle.save` wrote.

    Args:
        stream: an open file or another binary stream, read from its current position on.
        **settings: the options of `pickle.load`; only encoding="bytes" has an effect, on the keys of a dict.

    Raises:
        PpclsExtError: the file is of another kind or damaged, names code, or expands to far more than its size.
    """
    on_disk = isinstance(stream, io.BufferedReader) and isinstance(stream.raw, io.FileIO)
    path = stream.name if on_disk else getattr(stream, "name", None) or "the file"
    # a file is opened again: the stream's read-ahead buffer cannot be reached
    with explained(path), BoundedFile(path if on_disk else io.BytesIO(stream.read(LARGEST_STREAM))) as file:
        file.seek(stream.tell() if on_disk else 0)
        if file.peek(1)[:1] != b"\x80":
            raise PpclsExtError("is no file of paddle.save; expected weights or a state in Paddle's format")
        content = with_arrays(read_paddle_as_saved(file), file)
    if settings.get("encoding") == "bytes" and isinstance(content, dict):
        return {name.encode("latin-1", "replace"): value for name, value in content.items()}
    return content


class SafePickle(ModuleType):
    """Python's `pickle` with a safe `load`, `loads` and `Unpickler`."""

    def __init__(self) -> None:
        super().__init__("pickle", pickle.__doc__)

    load = staticmethod(read_pickle)

    @staticmethod
    def loads(content: bytes, **settings: Any) -> object:
        """See `load`; from bytes."""
        return read_pickle(io.BytesIO(content), **settings)

    class Unpickler:
        """See `load`; as an object."""

        def __init__(self, stream: BinaryIO, **_settings: Any) -> None:
            self.load = lambda: read_pickle(stream)

    def __getattr__(self, name: str) -> Any:
        return getattr(pickle, name)


SAFE_PICKLE = SafePickle()


def is_needed() -> bool:
    """Returns whether a module that is imported by now still reads pickles with Python's reader."""
    return bool(_unpickling(PLACES))


def read_without_running(places: tuple[str, ...] = PLACES) -> None:
    """Makes Paddle read pickles with `read_pickle`; a second call changes nothing.

    Args:
        places: the packages whose modules are changed, as far as they are imported by now.
    """
    for module in _unpickling(places):
        patch(module, "pickle", SAFE_PICKLE)


def _unpickling(places: tuple[str, ...]) -> list[ModuleType]:
    return [
        module
        for name, module in list(sys.modules.items())
        if name.startswith(places) and getattr(module, "pickle", None) is pickle
    ]
