"""Which of many files are pictures that can be trained on: decodable, and none twice."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

from ppcls_ext.data.class_folders import LeftOut
from ppcls_ext.data.decodable import faults
from ppcls_ext.pictures.decoding import read_picture
from ppcls_ext.pictures.find import SUFFIXES


def usable(
    classes: Sequence[list[Path]], report: Callable[[int, int], None] | None = None
) -> tuple[list[list[Path]], list[LeftOut]]:
    """Decodes every file of every class, and looks for files of the same bytes.

    Of twins in one class the first stays; of twins in several classes none, as their class is unknown.

    Args:
        classes: the files of each class.
        report: called after each file with (files done, files in all).

    Returns:
        The files that can be used, of each class, and the others.
    """
    pictures = [(label, path) for label, files in enumerate(classes) for path in files]
    left_out, good = [], []
    for (label, path), fault in zip(pictures, faults([path for _, path in pictures], report)):
        if fault is None:
            good.append((label, path))
        else:
            is_picture = path.suffix.lower() in SUFFIXES or not fault.startswith("not an image")
            left_out.append(LeftOut(path, "unreadable" if is_picture else "no picture", fault))
    twins = _twins(good)
    left_out += twins
    gone = {twin.path for twin in twins}
    kept: list[list[Path]] = [[] for _ in classes]
    for label, path in good:
        if path not in gone:
            kept[label].append(path)
    return kept, left_out


def _twins(pictures: Sequence[tuple[int, Path]]) -> list[LeftOut]:
    by_size = defaultdict(list)
    for label, path in pictures:
        by_size[path.stat().st_size].append((label, path))
    by_content = defaultdict(list)
    for group in by_size.values():
        for label, path in group if len(group) > 1 else ():
            by_content[hashlib.sha256(read_picture(path)).digest()].append((label, path))
    left_out = []
    for group in by_content.values():
        first_label, first = group[0]
        if all(label == first_label for label, _ in group):
            left_out += [LeftOut(path, "duplicate", f"the same bytes as {first}") for _, path in group[1:]]
        else:
            for _, path in group:
                twin = first if path != first else group[1][1]
                left_out.append(LeftOut(path, "in several classes", f"the same bytes as {twin}: which class is right?"))
    return left_out
