"""From class folders to PaddleClas's image lists: pictures checked, split and written."""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from ppcls_ext.data.class_folders import LeftOut, find_class_folders
from ppcls_ext.data.lists import list_text, read_list, write_list
from ppcls_ext.data.usable import usable
from ppcls_ext.errors import PpclsExtError
from ppcls_ext.pictures.class_names import read_class_names

TRAIN, VAL, NAMES, LEFT_OUT = "train_list.txt", "val_list.txt", "label_list.txt", "left_out.txt"


class Made(NamedTuple):
    """The lists that were written.

    Attributes:
        root: the image root that the lists' paths start from.
        folder: of the lists: train_list.txt, val_list.txt, label_list.txt and, if need be, left_out.txt.
        classes: the names, in the order of the class numbers.
        train: how many pictures of each class to train on.
        val: how many to evaluate on.
        left_out: what the lists do not hold.
    """

    root: Path
    folder: Path
    classes: tuple[str, ...]
    train: list[int]
    val: list[int]
    left_out: list[LeftOut]

    def lines(self) -> list[str]:
        """What was made and what was left out, for the terminal."""
        lines = [f"{len(self.classes)} classes, {sum(self.train)} pictures to train on, {sum(self.val)} to evaluate on"]
        if self.left_out:
            counts = Counter(item.kind for item in self.left_out)
            by_count = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
            words = ", ".join(f"{count} {kind}" for kind, count in by_count)
            lines.append(f"left out: {words}; {self.folder / LEFT_OUT} names them")
        few = [name for name, count in zip(self.classes, self.val) if not count]
        if few:
            more = f" and {len(few) - 1} more" if len(few) > 1 else ""
            lines.append(f"no picture of {few[0]!r}{more} to evaluate on")
        return lines


def make_lists(
    root: str | os.PathLike,
    folder: str | os.PathLike,
    val_share: float = 0.2,
    seed: int = 0,
    report: Callable[[int, int], None] | None = None,
) -> Made:
    """Writes the lists of a folder of class folders.

    Args:
        root: holds one folder a class, or these in train/ and val/; see `find_class_folders`.
        folder: for the lists.
        val_share: the share of each class to evaluate on, where there is no val/: at least one picture of a class that
            has two, and never all.
        seed: of the split; the same pictures and seed give the same lists.
        report: called after each picture that was decoded with (done, all).

    Raises:
        PpclsExtError: fewer than two classes have usable pictures, or there is nothing to evaluate on.
    """
    if not 0 < val_share < 1:
        raise PpclsExtError(f"the share of pictures to evaluate on is {val_share}: expected more than 0, less than 1")
    root, folder = Path(root).resolve(), Path(folder)
    found = find_class_folders(root)
    train, left_out = usable(found.train, report)
    left_out = found.left_out + left_out
    if found.val is not None:
        val, unusable = usable(found.val, report)
        left_out += unusable
    names = found.classes
    kept = [index for index in range(len(names)) if train[index]]
    if found.val is not None:
        orphans = [path for index in range(len(names)) if index not in kept for path in val[index]]
        left_out += [LeftOut(path, "of no class", "its class has no picture to train on") for path in orphans]
    if len(kept) < 2:
        reason = f"; {left_out[0].path}: {left_out[0].reason}" if left_out else ""
        raise PpclsExtError(
            f"{root} holds pictures of {len(kept)} classes, at least 2 are needed: one folder a class{reason}"
        )
    if found.val is None:
        split = [_split(train[index], val_share, f"{seed}/{names[index]}") for index in kept]
    else:
        split = [(train[index], val[index]) for index in kept]
    made = Made(
        root,
        folder,
        tuple(names[index] for index in kept),
        [len(train) for train, _ in split],
        [len(val) for _, val in split],
        left_out,
    )
    if not any(made.val):
        raise PpclsExtError(f"{root} leaves no picture to evaluate on: every class needs two at least")
    _write(made, split)
    return made


def kept_lists(root: Path, folder: Path) -> Made:
    """The lists that `make_lists` wrote to `folder` before, as they are.

    Raises:
        PpclsExtError: they are damaged, or a picture is gone.
    """
    names = read_class_names(folder / NAMES)
    counts = []
    for name in (TRAIN, VAL):
        labels = Counter(entry.label for entry in read_list(folder / name, root, len(names)))
        counts.append([labels[index] for index in range(len(names))])
    return Made(root.resolve(), folder, names, *counts, [])


def _split(paths: Sequence[Path], val_share: float, seed: str) -> tuple[list[Path], list[Path]]:
    shuffled = list(paths)
    random.Random(seed).shuffle(shuffled)
    count = min(max(round(len(paths) * val_share), 1), len(paths) - 1)
    return sorted(shuffled[count:]), sorted(shuffled[:count])


def _write(made: Made, split: Sequence[tuple[list[Path], list[Path]]]) -> None:
    for part, name in ((0, TRAIN), (1, VAL)):
        images = ((_listed(path, made.root), label) for label, parts in enumerate(split) for path in parts[part])
        write_list(made.folder / name, list_text(images))
    write_list(made.folder / NAMES, "".join(f"{index} {name}\n" for index, name in enumerate(made.classes)))
    if made.left_out:
        text = "".join(f"{item.path}\t{item.kind}\t{item.reason}\n" for item in made.left_out)
        write_list(made.folder / LEFT_OUT, text.encode(errors="backslashreplace").decode())
    else:
        (made.folder / LEFT_OUT).unlink(missing_ok=True)


def _listed(path: Path, root: Path) -> str:
    text = path.relative_to(root).as_posix()
    # blanks at a line's start would be lost
    return f"./{text}" if text[0].isspace() or text[0] == "\ufeff" else text
