"""Copies of image lists and class names for PaddleClas, where it would misread or refuse the user's own.

PaddleClas (`data/dataloader/imagenet_dataset.py`, `data/postprocess/topk.py`) stumbles over a byte order mark and blank
lines, and takes a path with a space in it for another path and another label.
"""

from __future__ import annotations

import atexit
import functools
import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from ppcls_ext.data.lists import ListEntry, list_text, write_list

#: Between path and label of a copy: in no absolute, normalised path.
DELIMITER = "//"


def host_reads_list(path: Path, image_root: str, delimiter: str, entries: Sequence[ListEntry]) -> bool:
    """Whether PaddleClas finds in the list at `path` just the images and labels of `entries`."""
    with open(path, encoding="utf-8") as stream:
        lines = [line.strip().split(delimiter) for line in stream]
    if len(lines) != len(entries):
        return False
    return all(
        len(fields) > 1 and Path(image_root, fields[0]) == entry.path and fields[1] == str(entry.label)
        for fields, entry in zip(lines, entries)
    )


def copy_list(entries: Sequence[ListEntry]) -> tuple[Path, str]:
    """Writes `entries` for PaddleClas; returns the file, which lives as long as this process, and its delimiter."""
    images = ((os.path.abspath(entry.path), entry.label) for entry in entries)
    return _write(list_text(images, DELIMITER)), DELIMITER


def host_reads_class_names(path: Path) -> bool:
    """Whether no byte order mark or blank line keeps PaddleClas from reading the class names at `path`."""
    text = path.read_bytes()
    return not text.startswith(b"\xef\xbb\xbf") and all(line.strip() for line in text.splitlines())


def copy_class_names(names: Sequence[str], delimiter: str) -> Path:
    """Writes the names by index for PaddleClas; returns the file, which lives as long as this process."""
    return _write("".join(f"{index}{delimiter}{name}\n" for index, name in enumerate(names)))


def _write(text: str) -> Path:
    handle, name = tempfile.mkstemp(suffix=".txt", dir=_folder())
    os.close(handle)
    write_list(Path(name), text)
    return Path(name)


@functools.cache
def _folder() -> str:
    folder = tempfile.mkdtemp(prefix="ppcls_ext-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder
