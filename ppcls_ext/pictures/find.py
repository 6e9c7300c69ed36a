"""The image files that names, folders and patterns stand for."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from ppcls_ext.errors import PpclsExtError

#: What counts as an image inside a folder; a file that is named itself is always tried.
SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".jp2")


def find_images(names: Sequence[str]) -> list[Path]:
    """The image files that the names stand for: files, folders and all below them, glob patterns.

    Returns:
        In the order of the names, what is in a folder or fits a pattern sorted; each file once.

    Raises:
        PpclsExtError: a name stands for nothing.
    """
    found = {}
    for name in names:
        path = Path(name)
        if path.is_dir():
            files = sorted(_below(path))
        elif path.exists() or not glob.has_magic(name):
            files = [path]  # a missing one is reported when its turn comes
        else:
            files = sorted(Path(file) for file in glob.glob(name, recursive=True) if Path(file).is_file())
        if not files:
            raise PpclsExtError(f"{name}: no image found; expected files, folders or patterns of {' '.join(SUFFIXES)}")
        for file in files:
            found.setdefault(os.path.realpath(file), file)
    return list(found.values())


def _below(folder: Path) -> Iterator[Path]:
    """The images in `folder` and in the folders below it, links followed once."""
    seen = set()
    for place, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(place)
        if real in seen:
            folders.clear()  # a link to a folder above
            continue
        seen.add(real)
        for path in (Path(place, name) for name in names):
            if path.suffix.lower() in SUFFIXES and path.is_file():
                yield path
