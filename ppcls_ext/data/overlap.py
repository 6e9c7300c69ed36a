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
    left, right = ({entry.path: None for entry in entries} for entries in (a, b))
    found = [str(path) for path in right if path in left]
    twins = _twins(list(left), [path for path in right if path not in left])
    return found + [f"{path} = {twin}" for path, twin in twins.items()]


def _twins(left: list[Path], right: list[Path]) -> dict[Path, Path]:
    """The files of `right` with the bytes of one in `left`, each with the first such file."""
    # from cheap to dear, so that few files of a large data set are read whole
    for key in (_size, _sample, _digest):
        if not right:
            return {}
        left_keys, right_keys = ({path: key(path) for path in paths} for paths in (left, right))
        common = set(left_keys.values()).intersection(right_keys.values())
        left = [path for path in left if left_keys[path] in common]
        right = [path for path in right if right_keys[path] in common]
    first = {left_keys[path]: path for path in reversed(left)}
    return {path: first[right_keys[path]] for path in right}


def _size(path: Path) -> int:
    return path.stat().st_size


def _sample(path: Path) -> bytes:
    """Bytes from the middle: the beginnings of JPEG files are often alike."""
    with open(path, "rb") as stream:
        stream.seek(_size(path) // 2)
        return stream.read(_SAMPLE_BYTES)


def _digest(path: Path) -> bytes:
    return hashlib.sha256(path.read_bytes()).digest()
