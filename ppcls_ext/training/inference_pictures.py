"""The pictures that `Infer.infer_imgs` and `Infer.infer_list` stand for."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from ppcls_ext.data.image_files import SUFFIXES, find_images
from ppcls_ext.data.lists import read_lines
from ppcls_ext.errors import PpclsExtError


def find_pictures(names: str | Sequence[str], list_file: str | None) -> list[str]:
    """The files that are meant, as texts.

    Args:
        names: one or several pictures, folders with all that is below them, or patterns.
        list_file: names pictures relative to the folder `names`.

    Raises:
        PpclsExtError: a name stands for nothing.
    """
    if list_file:
        return [_listed(names, line.strip()) for line in read_lines(Path(list_file)) if line.strip()]
    if isinstance(names, str):
        if not os.path.exists(names):
            raise PpclsExtError(f"Infer.infer_imgs is {names}: no such file or folder")
        if os.path.isdir(names) and not _holds_pictures(names):
            raise PpclsExtError(f"Infer.infer_imgs is {names}: the folder holds no picture ({', '.join(SUFFIXES)})")
        names = [names]
    return [str(path) for path in find_images(names)]


def _holds_pictures(folder: str) -> bool:
    return any(name.lower().endswith(SUFFIXES) for _, _, names in os.walk(folder, followlinks=True) for name in names)


def _listed(folder: str, line: str) -> str:
    """The file that `line` names, which may end with a label as in a list for training."""
    whole, without_label = os.path.join(folder, line), os.path.join(folder, line.rsplit(maxsplit=1)[0])
    return without_label if os.path.isfile(without_label) and not os.path.isfile(whole) else whole
