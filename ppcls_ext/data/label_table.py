"""From a folder of images and a table of their classes to PaddleClas's multi-label image lists.

The table is a CSV file: the first line names the classes, behind any word; each further line has an image's path below
the folder and, for each class, a 1 where the image shows it and a 0 where not:

    image,cat,dog
    img/0001.jpg,1,1
    img/0002.jpg,0,1
"""

from __future__ import annotations

import csv
import io
import itertools
import os
import random
from collections import Counter
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from ppcls_ext.data.class_folders import (
    LABEL_LIST,
    TRAIN_LIST,
    VAL_LIST,
    ClassLists,
    check_share,
    listed_path,
    usable_images,
    write_left_out,
)
from ppcls_ext.data.image_files import LeftOut, images_below
from ppcls_ext.data.image_rule import RGB
from ppcls_ext.data.lists import (
    LARGEST_LIST,
    MULTI_LABEL,
    TAB,
    class_names_text,
    decode_text,
    multi_label_text,
    write_list,
)
from ppcls_ext.errors import PpclsExtError
from ppcls_ext.files import read_regular

#: Between the fields of a line; the one that divides the first two lines into equally many fields, and the most.
DELIMITERS = (",", ";", TAB)
LAYOUT = "expected a CSV file with the lines image,cat,dog (the classes) and img/0001.jpg,1,0 (a 0 or 1 for each class)"
#: Divisions that are tried where one leaves a class out.
ATTEMPTS = 50

Labels = tuple[int, ...]


class LabelTable(NamedTuple):
    """The content of a table.

    Attributes:
        path: the file.
        classes: the class names, in the order of their indices.
        rows: path of each image as it is written, and a 0 or 1 for each class.
        lines: the line of each row.
    """

    path: Path
    classes: tuple[str, ...]
    rows: tuple[tuple[str, Labels], ...]
    lines: tuple[int, ...]


def read_label_table(path: Path) -> LabelTable:
    """Reads a table: UTF-8, with or without byte order mark, with commas, semicolons or tabs; blank lines are allowed.

    Raises:
        PpclsExtError: the file is missing or has a fault; the message begins with `file:line` of the first one.
    """
    try:
        data = read_regular(path, LARGEST_LIST)
    except (FileNotFoundError, NotADirectoryError):
        raise PpclsExtError(f"no table of labels {path}: {LAYOUT}") from None
    except (OSError, PpclsExtError) as error:
        raise PpclsExtError(f"cannot read the table of labels {path}: {error}") from None
    text = decode_text(path, data)
    lines = list(_fields(path, text, max(DELIMITERS, key=lambda mark: _columns(text, mark))))
    if not lines:
        raise PpclsExtError(f"{path}:1: the table is empty; {LAYOUT}")
    (number, (_, *names)), *rows = lines
    classes = _check_names(f"{path}:{number}", names)
    found = [(cells[0], _labels(f"{path}:{number}", cells, classes)) for number, cells in rows]
    if not found:
        raise PpclsExtError(f"{path}:{number}: the table names no image; {LAYOUT}")
    for index, name in enumerate(classes):
        if not any(labels[index] for _, labels in found):
            raise PpclsExtError(f"{path}: no image shows the class {name!r}: its column has no 1; remove the column")
    return LabelTable(path, classes, tuple(found), tuple(number for number, _ in rows))


def _fields(path: Path, text: str, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """Line number and stripped fields of each line that is not blank."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        for cells in reader:
            cells = [cell.strip() for cell in cells]
            if any(cells):
                yield reader.line_num, cells
    except csv.Error as error:
        raise PpclsExtError(f"{path}:{max(reader.line_num, 1)}: not CSV: {error}; {LAYOUT}") from None


def _columns(text: str, delimiter: str) -> tuple[bool, int]:
    """Whether the first two lines have equally many fields, two at least, and how many the first one has."""
    lines = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    try:
        first, second = (len(cells) for cells in itertools.islice((line for line in lines if any(line)), 2))
    except (csv.Error, ValueError):
        return False, 0
    return first == second > 1, first


def _check_names(where: str, names: Sequence[str]) -> tuple[str, ...]:
    if len(names) < 2:
        raise PpclsExtError(f"{where}: the first line names {len(names)} classes, at least 2 are needed: {LAYOUT}")
    seen = set()
    for place, name in enumerate(names, 2):
        if not name or name != " ".join(name.splitlines()):
            raise PpclsExtError(f"{where}: column {place} is headed {name!r}: expected a class name on one line")
        if name in ("0", "1"):
            raise PpclsExtError(f"{where}: column {place} is headed {name!r}, no class name: {LAYOUT}")
        if name in seen:
            raise PpclsExtError(f"{where}: two columns are headed {name!r}: expected one for each class")
        seen.add(name)
    return tuple(names)


def _labels(where: str, cells: Sequence[str], classes: Sequence[str]) -> Labels:
    name, *values = cells
    if len(values) != len(classes):
        raise PpclsExtError(
            f"{where}: {len(values)} labels, and the first line names {len(classes)} classes: expected one for each"
        )
    for label, value in zip(classes, values):
        if value not in ("0", "1"):
            raise PpclsExtError(f"{where}: {value[:50]!r} for the class {label!r}: expected 0 or 1")
    if not name:
        raise PpclsExtError(f"{where}: the first field is empty: expected the path of an image below the folder")
    return tuple(map(int, values))


def make_label_lists(
    root: str | os.PathLike,
    table: str | os.PathLike,
    folder: str | os.PathLike,
    val_share: float = 0.2,
    seed: int = 0,
    report: Callable[[int, int], None] | None = None,
    channels: int = RGB,
) -> ClassLists:
    """Writes the multi-label lists of a folder of images and a table of their classes.

    Files that cannot be decoded, byte-identical ones (of these with the same labels, all but the first) and images of
    the folder that the table does not name are left out.

    Args:
        root: the folder of the images, which may lie in folders below it.
        table: see `read_label_table`.
        folder: where to write the lists.
        val_share: the share of the images to evaluate on. Each class with two images is in both parts where possible.
        seed: RNG seed of the division; the same images, labels and seed give the same lists.
        report: called after each decoded image with (images done, images in all).
        channels: that the images are decoded to.

    Raises:
        PpclsExtError: the table has a fault or names a file that is not there, or a class has no usable image.
    """
    check_share(val_share)
    root, folder = Path(root).resolve(), Path(folder)
    if not root.is_dir():
        raise PpclsExtError(f"no folder of images {root}: expected the one that the paths in {table} start from")
    read = read_label_table(Path(table))
    listed = _find(root, read)
    images = [(listed[path], path) for path in sorted(listed)]
    good, left_out = usable_images(images, "labelled differently", "which labels are right?", report, channels)
    left_out += _unlisted(root, listed, read)
    for index, name in enumerate(read.classes):
        if not any(row[index] for row, _ in good):
            why = next((item for item in left_out if item.path in listed and listed[item.path][index]), None)
            reason = f"; {why.path}: {why.reason}" if why else ""
            raise PpclsExtError(
                f"no usable image shows the class {name!r}: remove its column, or mend the images{reason}"
            )
    is_val = divide([row for row, _ in good], val_share, seed)
    parts = [[pair for pair, val in zip(good, is_val) if val == wanted] for wanted in (False, True)]
    for part, name, what in zip(parts, (TRAIN_LIST, VAL_LIST), ("train", "evaluate")):
        if not any(any(row) for row, _ in part):
            raise PpclsExtError(f"{root} leaves no image of any class to {what} on: a class needs two at least")
        write_list(folder / name, multi_label_text((listed_path(path, root), row) for row, path in part))
    write_list(folder / LABEL_LIST, class_names_text(read.classes))
    write_left_out(folder, left_out)
    train, val = ([sum(row[index] for row, _ in part) for index in range(len(read.classes))] for part in parts)
    counts = len(parts[0]), len(parts[1])
    return ClassLists(root, folder, read.classes, train, val, left_out, counts, task=MULTI_LABEL)


def _find(root: Path, table: LabelTable) -> dict[Path, Labels]:
    """The labels of each file."""
    found: dict[Path, Labels] = {}
    lines: dict[Path, int] = {}
    missing = []
    for (name, labels), line in zip(table.rows, table.lines):
        where, path = f"{table.path}:{line}", root / os.path.normpath(name)
        if os.path.isabs(name) or not path.is_relative_to(root) or ".." in path.parts:
            raise PpclsExtError(f"{where}: {name!r} lies outside {root}: expected a path below it")
        if path in found:
            raise PpclsExtError(f"{where}: {name!r} stands on line {lines[path]} too: expected one line for each image")
        if any(mark in name for mark in "\t\r\n"):
            raise PpclsExtError(
                f"{where}: {name!r} holds a tab or a line break, which no list can hold: rename the file"
            )
        found[path], lines[path] = labels, line
        if not os.path.isfile(str(path)):  # of a string: False for names that no system allows
            missing.append((line, name))
    if missing:
        line, name = missing[0]
        raise PpclsExtError(
            f"{table.path}:{line}: no image file {name!r} below {root} ({len(missing)} of {len(found)} are missing): "
            "the paths in the first column start from that folder"
        )
    return found


def _unlisted(root: Path, listed: Container[Path], table: LabelTable) -> list[LeftOut]:
    """The image files of the folder, by their names, that the table does not name."""
    reason = f"{table.path} does not name it"
    return [LeftOut(path, "not in the table", reason) for path in images_below(root)[0] if path not in listed]


def divide(labels: Sequence[Labels], val_share: float, seed: int = 0) -> list[bool]:
    """Divides images into those to train and those to evaluate on, so that classes keep their shares.

    The rarest class goes first, as in iterative stratification (Sechidis et al. 2011): of its images that are in no
    part yet, as many as it still lacks are evaluated on, rather those whose other classes lack images, too. A class of
    one image is trained on, as are all images that are left. Images of no class are divided like a class.

    Args:
        labels: a 0 or 1 for each class, of each image.
        val_share: the share to evaluate on, between 0 and 1.
        seed: RNG seed.

    Returns:
        Whether each image is evaluated on. Each class with two images has one in both parts, unless none of `ATTEMPTS`
        divisions does that.
    """
    shown = [tuple(index for index, value in enumerate(row) if value) or (len(row),) for row in labels]
    counts = Counter(index for classes in shown for index in classes)
    best: list[bool] = []
    fewest = -1
    for attempt in range(ATTEMPTS):
        found = _divide_once(shown, counts, val_share, random.Random(f"{seed}/{attempt}"))
        val = Counter(index for classes, is_val in zip(shown, found) if is_val for index in classes)
        lacking = sum(1 for index, count in counts.items() if count > 1 and not 0 < val[index] < count)
        if fewest < 0 or lacking < fewest:
            best, fewest = found, lacking
        if not lacking:
            break
    return best


def _divide_once(
    shown: Sequence[Labels], counts: Mapping[int, int], val_share: float, rng: random.Random
) -> list[bool]:
    wanted = {index: _share_of(count, val_share) for index, count in counts.items()}
    val: Counter[int] = Counter()
    is_val = [False] * len(shown)
    places: dict[int, list[int]] = {index: [] for index in counts}
    for place in rng.sample(range(len(shown)), len(shown)):
        for index in shown[place]:
            places[index].append(place)
    for rarest in sorted(counts, key=lambda index: (counts[index], index)):
        # rather images whose classes all lack some; none that would leave a class without one to train on
        for place in sorted(places[rarest], key=lambda place: sum(val[i] >= wanted[i] for i in shown[place])):
            if val[rarest] >= wanted[rarest]:
                break
            if not is_val[place] and all(val[index] < counts[index] - 1 for index in shown[place]):
                is_val[place] = True
                val.update(shown[place])
    return is_val


def _share_of(count: int, val_share: float) -> int:
    return min(max(round(count * val_share), 1), count - 1)
