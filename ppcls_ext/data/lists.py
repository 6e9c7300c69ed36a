"""PaddleClas's text files: image lists and class names, checked strictly before PaddleClas reads them.

An image list is a UTF-8 text file with one image per line: the path relative to the image root, a delimiter, the class:

    jpg/image_00001.jpg 76

The label is what follows the last delimiter, so that paths may contain it too. (PaddleClas takes the first two fields
of such a line as path and label; `ppcls_ext.config.lists` writes it a list that it understands.)
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from ppcls_ext.errors import PpclsExtError
from ppcls_ext.files import atomic_write, read_regular

LARGEST_LIST = 1 << 30
"""Bytes of a list. One of ImageNet-21k's 14 million pictures has half of that."""
_LABEL = re.compile(r"-?[0-9]{1,18}")  # 18 digits always fit PaddleClas's int64


class ListEntry(NamedTuple):
    """One line of a list: the image's file, its class and its line number, counted from 1."""

    path: Path
    label: int
    line: int


def list_text(images: Iterable[tuple[str, int]], delimiter: str = " ") -> str:
    """The text of the list of these (path relative to the image root, label) pairs."""
    return "".join(f"{path}{delimiter}{label}\n" for path, label in images)


def write_list(path: Path, text: str) -> None:
    """Writes a list's text atomically, with the same bytes on every system."""
    with atomic_write(path, "w", encoding="utf-8", newline="\n") as stream:
        stream.write(text)


def read_list(path: Path, image_root: Path, class_num: int | None, delimiter: str = " ") -> list[ListEntry]:
    """Reads a list and checks every line, every label and that every image file exists.

    A byte order mark, CRLF, blank lines at the end and the delimiter in paths are allowed.

    Args:
        path: the list, PaddleClas's `cls_label_path`.
        image_root: the folder that the image paths start from.
        class_num: labels must be in 0..class_num-1; None accepts any integer.
        delimiter: what stands between path and label.

    Raises:
        PpclsExtError: with `file:line` of the first fault.
    """
    if not delimiter:
        raise PpclsExtError(f"{path}: the delimiter is empty; expected what stands between path and label, such as ' '")
    lines = read_lines(path)
    if not os.path.isdir(image_root):
        raise PpclsExtError(f"no image root {image_root}: not a folder; {_how_to_make(image_root)}")
    entries = []
    for number, line in enumerate(lines, 1):
        image, label = _parse(line, f"{path}:{number}", class_num, delimiter)
        entries.append(ListEntry(Path(image_root, image), label, number))
    # isfile of a string: unlike Path.is_file() it is False for names that no system allows
    missing = [entry for entry in entries if not os.path.isfile(str(entry.path))]
    if missing:
        first = missing[0]
        raise PpclsExtError(
            f"{path}:{first.line}: no image file {str(first.path)!r} ({len(missing)} of {len(entries)} are missing); "
            f"the list's paths start from image_root {image_root}; {_how_to_make(image_root)}"
        )
    return entries


def read_lines(path: Path) -> list[str]:
    """The lines of a list up to the last that is not blank.

    Raises:
        PpclsExtError: the file is missing, unreadable, empty or not UTF-8.
    """
    try:
        # universal newlines, as PaddleClas has them; str.splitlines would split at more characters
        text = read_regular(path, LARGEST_LIST).decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")
    except (FileNotFoundError, NotADirectoryError):
        raise PpclsExtError(f"no list {path}; {_how_to_make(path)}") from None
    except PpclsExtError as error:
        raise PpclsExtError(f"cannot read the list: {error}") from None
    except OSError as error:
        raise PpclsExtError(f"cannot read list {path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise PpclsExtError(
            f"{path}:{line}: not UTF-8 (byte 0x{error.object[error.start]:02x}); save the list as UTF-8 text"
        ) from None
    lines = text.rstrip().split("\n")
    if lines == [""]:
        raise PpclsExtError(f"{path}:1: the list is empty; {_how_to_make(path)}")
    return lines


def _parse(line: str, where: str, class_num: int | None, delimiter: str) -> tuple[str, int]:
    """The image path and the label of one line, or a PpclsExtError that starts with `where`."""
    image, found, label = line.strip().rpartition(delimiter)
    if not found:
        raise PpclsExtError(
            f"{where}: no label in {_start(line)!r}; expected path{delimiter}label with the delimiter {delimiter!r} "
            "(`delimiter` in the YAML's dataset section sets another)"
        )
    if not _LABEL.fullmatch(label):
        raise PpclsExtError(f"{where}: label {_start(label)!r} is not an integer")
    if class_num is not None and not 0 <= int(label) < class_num:
        raise PpclsExtError(f"{where}: label {label} is outside 0..{class_num - 1} (class_num is {class_num})")
    return image, int(label)


def _start(text: str) -> str:
    return text if len(text) <= 200 else f"{text[:200]}…"


def _how_to_make(path: Path) -> str:
    name = str(path).lower()
    if "flowers102" in name:
        return "ppcls-ext prepare-flowers102 --download makes it"
    if "digits" in name:
        return "ppcls-ext make-sample-dataset makes it"
    return (
        "a list is a text file with one image a line, the path from image_root, a delimiter and the class counted "
        "from 0: jpg/image_00001.jpg 76"
    )


LARGEST_NAMES = 1 << 26
"""Bytes of a file of names; indices have up to six digits."""


def read_class_names(path: str | os.PathLike, delimiter: str = " ") -> tuple[str, ...]:
    """Reads PaddleClas's `class_id_map_file`: one "index name" per line, UTF-8.

    Returns:
        Names by index; "" for an index that the file leaves out.

    Raises:
        PpclsExtError: the file cannot be read, or a line is no index and name; names the line.
    """
    names = {}
    try:
        lines = (
            read_regular(path, LARGEST_NAMES).decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n").split("\n")
        )
    except (OSError, UnicodeDecodeError, PpclsExtError) as error:
        reason = (
            str(error) if isinstance(error, PpclsExtError) else getattr(error, "strerror", None) or "it is not UTF-8"
        )
        raise PpclsExtError(
            f"cannot read the class names {path}: {reason}; mend Infer.PostProcess.class_id_map_file, or set it to null"
        ) from error
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        index, _, name = line.partition(delimiter)
        if not re.fullmatch(r"\d{1,6}", index) or int(index) in names:
            raise PpclsExtError(
                f"{path}:{number}: got {line[:99]!r}, expected a new class index, {delimiter!r} and a name"
            )
        names[int(index)] = name.strip()
    return tuple(names.get(index, "") for index in range(max(names, default=-1) + 1))


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
