"""PaddleClas's text files: image lists and class names, checked strictly before PaddleClas reads them.

An image list is a UTF-8 text file with one image per line: the path relative to the image root, a delimiter, the class:

    jpg/image_00001.jpg 76

The label is what follows the last delimiter, so that paths may contain it too. (PaddleClas takes the first two fields
of such a line as path and label, and gets the list as it is read here: `hosts/paddleclas/image_lists.py`.)

Where an image may show several classes, a tab and a 0 or 1 for each class stand behind the path:

    jpg/image_00001.jpg	0,1,1

A list may have many millions of lines. It is kept as the bytes of the file and one array each of where paths begin,
where they end, and labels: some 50 bytes a line, which processes that are forked share. Most lines are parsed by NumPy,
many at once; a line that is unusual in any way goes through `_parse`, which alone knows all the rules and faults.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import os
import re
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Union, overload

import numpy as np

from ppcls_ext.data.shards import find_member
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


@dataclass(frozen=True, eq=False, repr=False)
class ImageList(Sequence[ListEntry]):
    """An image list, parsed and checked once (`read_list`); as a sequence, its entries in the file's order.

    Attributes:
        path: the list file.
        image_root: the folder that the paths in the file start from.
        delimiter: the string between path and label.
        sha256: hexadecimal digest of the file's bytes.
        task: "single-label", or "multi-label" where the labels are a 0 or 1 for each class.
        text: the bytes of the file.
        starts: int32 (N,), where in `text` the path of each line begins.
        ends: int32 (N,), where it ends.
        targets: the labels: int64 (N,), or uint8 (N, classes) of a multi-label list.
    """

    path: Path
    image_root: Path
    delimiter: str
    sha256: str
    task: str
    text: bytes
    starts: np.ndarray
    ends: np.ndarray
    targets: np.ndarray

    def __repr__(self) -> str:
        return f"{len(self)} images of {self.path}"  # PaddleClas logs its configuration

    def __deepcopy__(self, memo: dict) -> ImageList:
        return self  # nothing of it changes, and PaddleClas copies its configuration

    def __len__(self) -> int:
        return len(self.starts)

    @overload
    def __getitem__(self, index: int) -> ListEntry: ...

    @overload
    def __getitem__(self, index: slice) -> tuple[ListEntry, ...]: ...

    def __getitem__(self, index: int | slice) -> ListEntry | tuple[ListEntry, ...]:
        if isinstance(index, slice):
            return tuple(self[i] for i in range(*index.indices(len(self))))
        label = self.targets[index].tolist()
        line = index + 1 if index >= 0 else len(self) + index + 1
        return ListEntry(Path(self.image_root, self.name(index)), label if type(label) is int else tuple(label), line)

    def __iter__(self) -> Iterator[ListEntry]:
        return (self[index] for index in range(len(self)))

    @functools.cached_property
    def labels(self) -> frozenset[int]:
        """The class indices that occur."""
        found = np.flatnonzero(self.targets.any(axis=0)) if self.task == MULTI_LABEL else np.unique(self.targets)
        return frozenset(found.tolist())

    @property
    def may_be_packed(self) -> bool:
        """Whether some of the images may be in shards; see `data.shards`."""
        return b".tar/" in self.text

    def name(self, index: int) -> str:
        """Returns the path of an image as the list has it: from the image root on."""
        return self.text[self.starts[index] : self.ends[index]].decode()

    def names(self) -> Iterator[str]:
        """The paths of all images as the list has them."""
        text = self.text
        for at in range(0, len(self), PIECE):
            piece = slice(at, at + PIECE)
            for start, end in zip(self.starts[piece].tolist(), self.ends[piece].tolist()):
                yield text[start:end].decode()


def read_list(
    path: Path,
    image_root: Path,
    class_num: int | None,
    delimiter: str = " ",
    task: str = SINGLE_LABEL,
    report: Callable[[int, int], None] | None = None,
) -> ImageList:
    """Reads a list and checks every line, every label and that every image file exists.

    A byte order mark, CRLF, blank lines at the end and the delimiter in paths are allowed.

    Args:
        path: the list, PaddleClas's `cls_label_path`.
        image_root: the folder that the image paths start from.
        class_num: labels must be in 0..class_num-1, or as many; None accepts any integer, or as many as the first line.
        delimiter: the string between path and label; a tab in a multi-label list, whatever is given.
        task: "single-label" or "multi-label".
        report: called now and then with (lines done, lines in all).

    Raises:
        PpclsExtError: the list is missing or has a fault; the message begins with `file:line` of the first one.
    """
    several = task == MULTI_LABEL
    delimiter = TAB if several else delimiter
    if not delimiter:
        raise PpclsExtError(f"{path}: the delimiter is empty; expected what stands between path and label, such as ' '")
    data = _read_bytes(path)
    digest = hashlib.sha256(data).hexdigest()
    if not _is_utf8(data):
        decode_text(path, data)  # raises
    if b"\r" in data:
        data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")  # as `_with_newlines`
    begin = len(BOM) if data.startswith(BOM) else 0
    end = _end(data, begin)
    if begin == end:
        raise _empty(path)
    if not os.path.isdir(image_root):
        raise PpclsExtError(f"no image root {image_root}: not a folder; {_how_to_make(image_root)}")
    parser = _Parser(path, data, begin, end, class_num, delimiter, several)
    count, done = len(parser.starts), 0
    while done < count:
        done = parser.parse_piece()
        if report:
            report(done // 2, count)
    images = ImageList(
        Path(path), Path(image_root), delimiter, digest, task, data, parser.starts, parser.ends, parser.targets
    )
    there = _which_exist(images, report)
    if not there.all():
        first = images[int(np.argmin(there))]
        raise PpclsExtError(
            f"{path}:{first.line}: no image file {str(first.path)!r} ({count - np.count_nonzero(there)} of {count} are "
            f"missing); the list's paths start from image_root {image_root}; {_how_to_make(image_root)}"
        )
    return images


BOM = b"\xef\xbb\xbf"
PIECE = 1 << 20
"""Bytes or lines that are treated at once."""


def _is_utf8(data: bytes) -> bool:
    if data.isascii():
        return True
    at = 0
    while at < len(data):
        stop = data.find(b"\n", at + PIECE) + 1 or len(data)
        try:
            data[at:stop].decode()
        except UnicodeDecodeError:
            return False
        at = stop
    return True


def _end(data: bytes, begin: int) -> int:
    """Where the text from `begin` on ends without the blanks behind it, as `str.rstrip` finds them."""
    end = len(data)
    while end > begin:
        start = max(data.rfind(b"\n", begin, end) + 1, begin)
        kept = data[start:end].decode().rstrip()
        if kept:
            return start + len(kept.encode())
        end = max(start - 1, begin)
    return begin


def _split(data: bytes, begin: int, end: int) -> Iterator[str]:
    while begin <= end:
        stop = data.find(b"\n", begin, end)
        stop = end if stop < 0 else stop
        yield data[begin:stop].decode()
        begin = stop + 1


class _Parser:
    """Parses the lines of a list from `begin` to `end`, piece by piece, into `starts`, `ends` and `targets`.

    The lines that NumPy parses begin with a visible ASCII character and end with a delimiter of one byte and a label of
    digits that is in range; `_parse` and `_parse_several` parse all others.
    """

    def __init__(
        self, path: Path, data: bytes, begin: int, end: int, class_num: int | None, delimiter: str, several: bool
    ) -> None:
        self._path, self._data, self._bytes = path, data, np.frombuffer(data, np.uint8)
        self._at, self._end, self._line = begin, end, 0
        self._class_num, self._delimiter, self._several = class_num, delimiter, several
        count = data.count(b"\n", begin, end) + 1
        if several and class_num is None:
            self._class_num = len(_parse_several(next(_split(data, begin, end)), f"{path}:1", None)[1])
        least = 2 * (self._class_num or 1) if several else 2  # bytes of a line: labels, and the mark before them
        if count * (least + 1) - 1 > end - begin:  # one line is too short: arrays for all could be huge
            for number, line in enumerate(_split(data, begin, end), 1):
                self._parse_line(line, number)
        self.starts, self.ends = np.empty(count, np.int32), np.empty(count, np.int32)
        self.targets = np.empty((count, self._class_num or 0), np.uint8) if several else np.empty(count, np.int64)

    def parse_piece(self) -> int:
        """Parses some lines more, and returns how many are done."""
        at, data = self._at, self._bytes
        stop = self._data.find(b"\n", min(at + PIECE, self._end), self._end)
        stop = self._end if stop < 0 else stop
        breaks = np.flatnonzero(data[at:stop] == ord("\n")) + at
        starts, ends = np.append(at, breaks + 1), np.append(breaks, stop)
        lines = slice(self._line, self._line + len(starts))
        simple = np.zeros(len(starts), bool)
        mark = self._delimiter.encode()
        if len(mark) == 1 and mark not in b"0123456789-\n\r":
            marks = np.append(-1, np.flatnonzero(data[at:stop] == ord(mark)) + at)
            before = np.searchsorted(marks, ends)
            last = marks[before - 1]
            simple = (data[starts] > ord(" ")) & (data[starts] < 127) & (last > starts)
            if self._several:  # a second tab is a fault
                simple &= before - np.searchsorted(marks, starts) == 1
            find = self._zeros_and_ones if self._several else self._numbers
            self.targets[lines], simple = find(last, ends, simple)
            self.ends[lines] = last
        self.starts[lines] = starts
        for index in np.flatnonzero(~simple).tolist():
            self._parse_alone(self._line + index, int(starts[index]), int(ends[index]))
        self._at, self._line = stop + 1, lines.stop
        return self._line

    def _numbers(self, last: np.ndarray, ends: np.ndarray, simple: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The numbers between `last` (excluded) and `ends`, and which of the lines that were simple still are."""
        lengths, numbers = ends - last - 1, np.zeros(len(ends), np.int64)
        simple = simple & (lengths > 0) & (lengths <= 18)  # 18 digits always fit
        left = np.flatnonzero(simple)
        for place in range(18):
            left = left[lengths[left] > place]
            if not len(left):
                break
            digits = self._bytes[ends[left] - 1 - place].astype(np.int64) - ord("0")
            simple[left[(digits < 0) | (digits > 9)]] = False
            numbers[left] += digits * 10**place
        if self._class_num is not None:
            simple &= numbers < self._class_num
        return numbers, simple

    def _zeros_and_ones(self, last: np.ndarray, ends: np.ndarray, simple: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """As `_numbers`, of labels such as 0,1,1."""
        assert self._class_num is not None
        length = 2 * self._class_num - 1
        labels = np.zeros((len(ends), self._class_num), np.uint8)
        left = np.flatnonzero(simple & (ends - last - 1 == length))
        simple = np.zeros_like(simple)
        some = max(PIECE // max(length, 1), 1)
        for part in (left[at : at + some] for at in range(0, len(left), some)):
            found = self._bytes[last[part][:, None] + np.arange(1, length + 1)]
            values = found[:, ::2] - ord("0")  # below "0" lies beyond 1, too
            labels[part] = values
            simple[part] = (values <= 1).all(axis=1) & (found[:, 1::2] == ord(",")).all(axis=1)
        return labels, simple

    def _parse_alone(self, index: int, start: int, end: int) -> None:
        line = self._data[start:end].decode()
        image, self.targets[index] = self._parse_line(line, index + 1)
        self.starts[index] = start + len(line[: len(line) - len(line.lstrip())].encode())
        self.ends[index] = self.starts[index] + len(image.encode())

    def _parse_line(self, line: str, number: int) -> tuple[str, Label]:
        where = f"{self._path}:{number}"
        if self._several:
            return _parse_several(line, where, self._class_num)
        return _parse(line, where, self._class_num, self._delimiter)


#: From so many images in one folder on, listing it costs less than a look at each file; over a network, far less.
WORTH_LISTING = 16


def _which_exist(images: ImageList, report: Callable[[int, int], None] | None) -> np.ndarray:
    """Returns whether there is a file for each image; bool (N,).

    Folders are listed, each once and no further than a few times as many files as the list names there. What is not
    found so is looked at by its path: the names of some file systems are not only those that they list.
    """
    if images.may_be_packed:
        return _which_are_packed(images)
    folders: dict[str, int] = {}
    numbers = np.fromiter(
        (folders.setdefault(name[: name.rfind("/") + 1], len(folders)) for name in images.names()),
        np.int32,
        len(images),
    )
    order = np.argsort(numbers, kind="stable")
    bounds = np.append(0, np.cumsum(np.bincount(numbers, minlength=len(folders)))).tolist()
    there = np.empty(len(images), bool)
    for number, folder in enumerate(folders):
        start, stop = bounds[number], bounds[number + 1]
        listed = _files_in(os.path.join(images.image_root, folder), stop - start)
        for at in range(start, stop, PIECE):
            lines = order[at : min(at + PIECE, stop)]
            names = (
                images.text[s:e].decode() for s, e in zip(images.starts[lines].tolist(), images.ends[lines].tolist())
            )
            # isfile of a string: unlike Path.is_file(), it returns False for names that no system allows
            there[lines] = [
                name[len(folder) :] in listed or os.path.isfile(str(Path(images.image_root, name))) for name in names
            ]
            if report:
                report((len(images) + at + len(lines)) // 2, len(images))
    return there


def _which_are_packed(images: ImageList) -> np.ndarray:
    """As `_which_exist`, where some of the images are in shards: these have to be long enough."""
    sizes: dict[str, int] = {}

    def exists(path: str) -> bool:
        member = find_member(path)
        if member is None:
            return os.path.isfile(str(Path(path)))
        if member.shard not in sizes:
            sizes[member.shard] = os.path.getsize(member.shard) if os.path.isfile(member.shard) else 0
        return 0 < member.start + member.size <= sizes[member.shard]

    return np.fromiter((exists(os.path.join(images.image_root, name)) for name in images.names()), bool, len(images))


def _files_in(folder: str, wanted: int) -> set[str]:
    """The names of files in a folder, links to files among them; not all where these are many more than `wanted`."""
    if wanted < WORTH_LISTING:
        return set()
    try:
        with os.scandir(folder) as entries:
            return {entry.name for entry in itertools.islice(entries, min(4 * wanted, PIECE)) if _is_file(entry)}
    except (OSError, ValueError):  # no folder, or a name that no system allows
        return set()


def _is_file(entry: os.DirEntry) -> bool:
    try:
        return entry.is_file()
    except OSError:  # links in a circle
        return False


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


LARGEST_COMPARED = 200_000
"""Images of two lists whose contents are compared: each one's size is asked for, and of many a part is read."""


def overlap(
    a: Sequence[ListEntry], b: Sequence[ListEntry], report: Callable[[int, int], None] | None = None
) -> list[str]:
    """Finds the images of `b` that `a` contains too, under the same path or as a byte-identical file of another name.

    The contents of more than `LARGEST_COMPARED` images are not compared, nor of those in shards, only the paths.

    Args:
        a: a list.
        b: another one.
        report: called now and then with (images done, images in all).

    Returns:
        One string for each such image of `b`: its path, or `its path = path in a` where the names differ.
    """
    total = len(a) + len(b)
    # of millions of paths, numbers are kept, and only those that may be in both lists as strings
    numbers = [_numbers(entries, done, total, report) for entries, done in ((a, 0), (b, len(a)))]
    seen = set(_paths(a, _which_are_among(*numbers)))
    both = dict.fromkeys(path for path in _paths(b, _which_are_among(*reversed(numbers))) if path in seen)
    if total > LARGEST_COMPARED or any(isinstance(images, ImageList) and images.may_be_packed for images in (a, b)):
        return list(both)
    left = dict.fromkeys(map(Path, _paths(a)))
    right = [path for path in dict.fromkeys(map(Path, _paths(b))) if path not in left]
    groups = identical_files([*left, *right], lambda group: _crosses(group, left))
    first = {path: next(p for p in group if p in left) for group in groups for path in group}
    return [*both, *(f"{path} = {first[path]}" for path in right if path in first)]


def _numbers(
    entries: Sequence[ListEntry], done: int, total: int, report: Callable[[int, int], None] | None
) -> np.ndarray:
    """A number for each image, the same for the same path; int64 (N,)."""
    paths, numbers = _paths(entries), np.empty(len(entries), np.int64)
    for at in range(0, len(numbers), PIECE):
        part = numbers[at : at + PIECE]
        part[:] = np.fromiter(map(hash, itertools.islice(paths, len(part))), np.int64, len(part))
        if report:
            report(done + at + len(part), total)
    return numbers


def _which_are_among(numbers: np.ndarray, others: np.ndarray) -> list[int]:
    """The indices of the numbers that are among the others. (`np.isin` takes several times the memory.)"""
    if not len(others):
        return []
    others = np.sort(others)
    at = np.searchsorted(others, numbers)
    at[at == len(others)] = 0
    return np.flatnonzero(others[at] == numbers).tolist()


def _paths(entries: Sequence[ListEntry], indices: Sequence[int] | None = None) -> Iterator[str]:
    """The paths of a list's images, or of some, each as `Path` spells it, which is asked where it may change it."""
    if not isinstance(entries, ImageList):
        return (str(entries[index].path) for index in (range(len(entries)) if indices is None else indices))
    root, names = str(entries.image_root), entries.names() if indices is None else map(entries.name, indices)
    start = f"{root}/" if os.sep == "/" and root not in (os.curdir, os.sep) else None
    return (
        str(Path(root, name))
        if start is None or "//" in name or "/." in name or name[0] in "./" or name[-1] == "/"
        else start + name
        for name in names
    )


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
        raise _empty(path)
    return lines


def _empty(path: Path) -> PpclsExtError:
    return PpclsExtError(f"{path}:1: the list is empty; {_how_to_make(path)}")


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
