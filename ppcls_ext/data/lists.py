"""PaddleClas's text files: image lists and class names, checked strictly before PaddleClas reads them.

An image list is a UTF-8 text file with one image per line: the path relative to the image root, a delimiter, the class:

    jpg/image_00001.jpg 76

The label is what follows the last delimiter, so that paths may contain it too. (PaddleClas takes the first two fields
of such a line as path and label; `ppcls_ext.config.lists` writes it a list that it understands.)

Where an image may show several classes, a tab and a 0 or 1 for each class stand behind the path:

    jpg/image_00001.jpg	0,1,1
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Union, overload

from ppcls_ext.errors import PpclsExtError
from ppcls_ext.files import atomic_write, identical_files, read_regular

#: What a list says of an image, and a network predicts: its one class, or every class that it shows.
SINGLE_LABEL, MULTI_LABEL = TASKS = "single-label", "multi-label"

LARGEST_LIST = 1 << 30
"""Bytes of an image list. ImageNet-21k's, with 14 million images, has half as many."""
LARGEST_NAMES = 1 << 26
"""Bytes of a file of class names; an index has up to six digits."""
_LABEL = re.compile(r"-?[0-9]{1,18}")  # 18 digits always fit PaddleClas's int64
#: Between path and labels of a multi-label list, the only one that PaddleClas knows there.
TAB = "\t"
#: The index of an image's class; for a multi-label list, a 0 or 1 for each class.
Label = Union[int, tuple[int, ...]]


class ListEntry(NamedTuple):
    """One line of a list.

    Attributes:
        path: the image file.
        label: its class index; for a multi-label list, a 0 or 1 for each class.
        line: the line's number in the list, counted from 1.
    """

    path: Path
    label: Label
    line: int

    @property
    def classes(self) -> tuple[int, ...]:
        """The indices of the classes that the image shows."""
        if isinstance(self.label, int):
            return (self.label,)
        return tuple(index for index, value in enumerate(self.label) if value)


@dataclass(frozen=True)
class ImageList(Sequence[ListEntry]):
    """An image list, parsed and checked once (`read_list`); as a sequence, its entries in the file's order.

    Attributes:
        path: the list file.
        image_root: the folder that the paths in the file start from.
        delimiter: the string between path and label.
        entries: one per line.
        sha256: hexadecimal digest of the file's bytes.
        is_plain: whether PaddleClas reads the same entries from the file: it splits each line at every delimiter, and
            understands neither a byte order mark nor blank lines.
        task: "single-label", or "multi-label" where the labels are a 0 or 1 for each class.
    """

    path: Path
    image_root: Path
    delimiter: str
    entries: tuple[ListEntry, ...]
    sha256: str
    is_plain: bool
    task: str = SINGLE_LABEL

    def __len__(self) -> int:
        return len(self.entries)

    @overload
    def __getitem__(self, index: int) -> ListEntry: ...

    @overload
    def __getitem__(self, index: slice) -> tuple[ListEntry, ...]: ...

    def __getitem__(self, index: int | slice) -> ListEntry | tuple[ListEntry, ...]:
        return self.entries[index]

    def __iter__(self) -> Iterator[ListEntry]:
        return iter(self.entries)

    @property
    def labels(self) -> frozenset[int]:
        """The class indices that occur."""
        return frozenset(label for entry in self.entries for label in entry.classes)


def read_list(
    path: Path, image_root: Path, class_num: int | None, delimiter: str = " ", task: str = SINGLE_LABEL
) -> ImageList:
    """Reads a list and checks every line, every label and that every image file exists.

    A byte order mark, CRLF, blank lines at the end and the delimiter in paths are allowed.

    Args:
        path: the list, PaddleClas's `cls_label_path`.
        image_root: the folder that the image paths start from.
        class_num: labels must be in 0..class_num-1, or as many; None accepts any integer, or as many as the first line.
        delimiter: the string between path and label; a tab in a multi-label list, whatever is given.
        task: "single-label" or "multi-label".

    Raises:
        PpclsExtError: the list is missing or has a fault; the message begins with `file:line` of the first one.
    """
    several = task == MULTI_LABEL
    delimiter = TAB if several else delimiter
    if not delimiter:
        raise PpclsExtError(f"{path}: the delimiter is empty; expected what stands between path and label, such as ' '")
    data = _read_bytes(path)
    text = decode_text(path, data)
    lines = _lines(path, text)
    if not os.path.isdir(image_root):
        raise PpclsExtError(f"no image root {image_root}: not a folder; {_how_to_make(image_root)}")
    # PaddleClas counts the blank lines at the end, and takes a byte order mark for a part of the first path
    is_plain = not data.startswith(b"\xef\xbb\xbf") and text.count("\n") + (not text.endswith("\n")) == len(lines)
    entries = []
    for number, line in enumerate(lines, 1):
        where = f"{path}:{number}"
        if several:
            image, labels = _parse_several(line, where, class_num)
            class_num = len(labels)
            entry, text = ListEntry(Path(image_root, image), labels, number), ",".join(map(str, labels))
        else:
            image, label = _parse(line, where, class_num, delimiter)
            entry, text = ListEntry(Path(image_root, image), label, number), str(label)
        is_plain = is_plain and line.strip() == f"{image}{delimiter}{text}" and delimiter not in image
        entries.append(entry)
    # isfile of a string: unlike Path.is_file(), it returns False for names that no system allows
    missing = [entry for entry in entries if not os.path.isfile(str(entry.path))]
    if missing:
        first = missing[0]
        raise PpclsExtError(
            f"{path}:{first.line}: no image file {str(first.path)!r} ({len(missing)} of {len(entries)} are missing); "
            f"the list's paths start from image_root {image_root}; {_how_to_make(image_root)}"
        )
    digest = hashlib.sha256(data).hexdigest()
    return ImageList(Path(path), Path(image_root), delimiter, tuple(entries), digest, is_plain, task)


def read_lines(path: Path) -> list[str]:
    """Reads the lines of a text file up to the last that is not blank.

    Raises:
        PpclsExtError: the file is missing, unreadable, empty or not UTF-8.
    """
    return _lines(path, decode_text(path, _read_bytes(path)))


def list_text(images: Iterable[tuple[str, Label]], delimiter: str = " ") -> str:
    """Returns the text of the list of these (path relative to the image root, label) pairs."""
    return "".join(f"{path}{delimiter}{label}\n" for path, label in images)


def multi_label_text(images: Iterable[tuple[str, Sequence[int]]]) -> str:
    """Returns the text of the multi-label list of these (path relative to the image root, 0 or 1 for each class)."""
    return "".join(f"{path}{TAB}{','.join(map(str, labels))}\n" for path, labels in images)


def class_names_text(names: Iterable[str], delimiter: str = " ") -> str:
    """Returns the text of PaddleClas's `class_id_map_file` for these names, given by class index."""
    return "".join(f"{index}{delimiter}{name}\n" for index, name in enumerate(names))


def write_list(path: Path, text: str) -> None:
    """Writes the text of a list or of class names atomically, with the same bytes on every system."""
    with atomic_write(path, "w", encoding="utf-8", newline="\n") as stream:
        stream.write(text)


def read_class_names(path: str | os.PathLike, delimiter: str = " ") -> tuple[str, ...]:
    """Reads PaddleClas's `class_id_map_file`: one "index name" per line, UTF-8.

    Returns:
        The names by index; "" for an index that the file leaves out.

    Raises:
        PpclsExtError: the file cannot be read, or a line is not an index and a name (the message gives the line).
    """
    names = {}
    try:
        lines = _with_newlines(read_regular(path, LARGEST_NAMES).decode("utf-8-sig")).split("\n")
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


def require_class_names(names: Sequence[str], classes: int, where: str) -> None:
    """Raises PpclsExtError where the names, given by class index, are not those of so many classes.

    Args:
        names: "" for a class that has none.
        classes: number of classes.
        where: the origin of the names, for the message.
    """
    if len(names) != classes:
        raise PpclsExtError(f"{where} has {len(names)} class names, and there are {classes} classes: one name a class")
    if "" in names:
        raise PpclsExtError(f"{where} has no name for class {names.index('')} of {classes}: one name a class")


def overlap(a: Sequence[ListEntry], b: Sequence[ListEntry]) -> list[str]:
    """Finds the images of `b` that `a` contains too, under the same path or as a byte-identical file of another name.

    Returns:
        One string for each such image of `b`: its path, or `its path = path in a` where the names differ.
    """
    left, right = ({entry.path: None for entry in entries} for entries in (a, b))
    both = [path for path in right if path in left]
    groups = identical_files([*left, *(path for path in right if path not in left)], lambda g: _crosses(g, left))
    first = {path: next(p for p in group if p in left) for group in groups for path in group}
    return [*map(str, both), *(f"{path} = {first[path]}" for path in right if path in first and path not in left)]


def _crosses(group: Sequence[Path], left: Container[Path]) -> bool:
    return len({path in left for path in group}) == 2


def _read_bytes(path: Path) -> bytes:
    try:
        return read_regular(path, LARGEST_LIST)
    except (FileNotFoundError, NotADirectoryError):
        raise PpclsExtError(f"no list {path}; {_how_to_make(path)}") from None
    except PpclsExtError as error:
        raise PpclsExtError(f"cannot read the list: {error}") from None
    except OSError as error:
        raise PpclsExtError(f"cannot read list {path}: {error.strerror or error}") from error


def decode_text(path: Path, data: bytes) -> str:
    """Returns the text of a file in UTF-8, without byte order mark and with plain line feeds.

    Raises:
        PpclsExtError: it is in another encoding; the message begins with `file:line`.
    """
    try:
        return _with_newlines(data.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise PpclsExtError(
            f"{path}:{line}: not UTF-8 (byte 0x{error.object[error.start]:02x}); save the list as UTF-8 text"
        ) from None


def _with_newlines(text: str) -> str:
    # universal newlines, as PaddleClas has them; str.splitlines would split at more characters
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _lines(path: Path, text: str) -> list[str]:
    lines = text.rstrip().split("\n")
    if lines == [""]:
        raise PpclsExtError(f"{path}:1: the list is empty; {_how_to_make(path)}")
    return lines


def _parse(line: str, where: str, class_num: int | None, delimiter: str) -> tuple[str, int]:
    """Returns the image path and the label of one line; the message of a fault begins with `where`."""
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


def _parse_several(line: str, where: str, class_num: int | None) -> tuple[str, tuple[int, ...]]:
    """Returns the image path and the labels of one line of a multi-label list."""
    image, found, text = line.strip().rpartition(TAB)
    if not found:
        raise PpclsExtError(
            f"{where}: no labels in {_start(line)!r}; expected path, a tab and 0,1,1, one for each class"
        )
    if TAB in image:
        raise PpclsExtError(
            f"{where}: {_start(line)!r} holds several tabs, and PaddleClas's MultiLabelDataset splits it at each: "
            "expected one, between path and labels; rename a file with a tab"
        )
    values = [value.strip() for value in text.split(",")]
    wrong = next((value for value in values if value not in ("0", "1")), None)
    if wrong is not None:
        raise PpclsExtError(
            f"{where}: label {_start(wrong)!r} in {_start(text)!r}: expected a 0 or 1 for each class, and commas"
        )
    if class_num is not None and len(values) != class_num:
        raise PpclsExtError(f"{where}: {len(values)} labels; expected {class_num}, one for each class (class_num)")
    return image, tuple(map(int, values))


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
        "from 0: jpg/image_00001.jpg 76 (for several classes an image, a tab and a 0 or 1 for each: 0,1,1)"
    )
