"""Images that two lists have in common."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from ppcls_ext.data.lists import ListEntry

_SAMPLE_BYTES = 4096


def overlap(a: Sequence[ListEntry], b: Sequence[ListEntry]) -> list[str]:
    """The images of `b` that `a` holds too, under the same path or as a byte-identical file of another name.

    Returns:
        One text for each such image of `b`: its path, or `its path = path in a` where the names differ.
    """
    left = list(dict.fromkeys(entry.path for entry in a))
    known = set(left)
    right = list(dict.fromkeys(entry.path for entry in b))
    found = [str(path) for path in right if path in known]
    right = [path for path in right if path not in known]
    # from cheap to dear, so that few files of a large dataset are read whole
    for key in (_size, _sample, _digest):
        left_keys = {path: key(path) for path in left} if right else {}
        right_keys = {path: key(path) for path in right}
        common = set(left_keys.values()).intersection(right_keys.values())
        left = [path for path in left if left_keys.get(path) in common]
        right = [path for path in right if right_keys[path] in common]
    twin = {left_keys[path]: path for path in reversed(left)}
    return found + [f"{path} = {twin[right_keys[path]]}" for path in right]


def _size(path: Path) -> int:
    return path.stat().st_size


def _sample(path: Path) -> bytes:
    """Bytes from the middle: the beginnings of JPEG files are often alike."""
    with open(path, "rb") as stream:
        stream.seek(_size(path) // 2)
        return stream.read(_SAMPLE_BYTES)


def _digest(path: Path) -> bytes:
    return hashlib.sha256(path.read_bytes()).digest()
