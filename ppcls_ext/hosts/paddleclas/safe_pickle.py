"""Paddle's own loading of pickles (`paddle.load`, `paddle.static.load`, …), with our reader in the place of Python's.

Paddle unpickles whatever file PaddleClas hands to it, and unpickling runs what the file asks for. What Paddle makes of
the content stays Paddle's own business, so that PaddleClas gets the same structures as before.
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
"""Bytes that are read of what is no file, such as a member of an archive."""


def read_pickle(stream: BinaryIO, **settings: Any) -> object:
    """In the place of `pickle.load`, for files of `paddle.save`.

    Args:
        stream: an open file or something like one, read from its current position on.
        **settings: of `pickle.load`; of these only encoding="bytes" means something here: for the keys of a dict.

    Raises:
        PpclsExtError: it is no such file, is damaged, asks for code, or unfolds to far more than its size.
    """
    on_disk = isinstance(stream, io.BufferedReader) and isinstance(stream.raw, io.FileIO)
    path = stream.name if on_disk else getattr(stream, "name", None) or "the file"
    # a file is opened anew: what the stream has read ahead cannot be had
    with explained(path), BoundedFile(path if on_disk else io.BytesIO(stream.read(LARGEST_STREAM))) as file:
        file.seek(stream.tell() if on_disk else 0)
        if file.peek(1)[:1] != b"\x80":
            raise PpclsExtError("is no file of paddle.save; expected weights or a state in Paddle's format")
        content = with_arrays(read_paddle_as_saved(file), file)
    if settings.get("encoding") == "bytes" and isinstance(content, dict):
        return {name.encode("latin-1", "replace"): value for name, value in content.items()}
    return content


class SafePickle(ModuleType):
    """Python's `pickle`, except for what loads."""

    def __init__(self) -> None:
        super().__init__("pickle", pickle.__doc__)

    load = staticmethod(read_pickle)

    @staticmethod
    def loads(content: bytes, **settings: Any) -> object:
        """As `load`, from bytes."""
        return read_pickle(io.BytesIO(content), **settings)

    class Unpickler:
        """As `load`, in the form of an object."""

        def __init__(self, stream: BinaryIO, **_settings: Any) -> None:
            self.load = lambda: read_pickle(stream)

    def __getattr__(self, name: str) -> Any:
        return getattr(pickle, name)


SAFE_PICKLE = SafePickle()


def is_needed() -> bool:
    """Returns whether a module that is imported by now still reads pickles with Python's reader."""
    return bool(_unpickling(PLACES))


def read_without_running(places: tuple[str, ...] = PLACES) -> None:
    """From now on Paddle reads pickles with `read_pickle`; a second call changes nothing.

    Args:
        places: packages; their modules that are imported already are changed.
    """
    for module in _unpickling(places):
        patch(module, "pickle", SAFE_PICKLE)


def _unpickling(places: tuple[str, ...]) -> list[ModuleType]:
    return [
        module
        for name, module in list(sys.modules.items())
        if name.startswith(places) and getattr(module, "pickle", None) is pickle
    ]
