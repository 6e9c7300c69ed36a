"""Which of many files are pictures that can be trained on: decodable, and none twice."""

from __future__ import annotations

import contextlib
import hashlib
from collections import defaultdict
from collections.abc import Callable, Sequence
from multiprocessing.pool import ThreadPool
from pathlib import Path

from ppcls_ext.data.class_folders import LeftOut
from ppcls_ext.errors import PpclsExtError
from ppcls_ext.pictures.decoding import decode, read_picture
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
    paths = [(label, path) for label, files in enumerate(classes) for path in files]
    left_out, good = [], []
    with ThreadPool() as pool:  # decoders work outside the interpreter lock
        faults = pool.imap(_fault, (path for _, path in paths), chunksize=4)
        for done, ((label, path), fault) in enumerate(zip(paths, faults), 1):
            if fault is None:
                good.append((label, path))
            else:
                left_out.append(fault)
            if report:
                report(done, len(paths))
    twins = _twins(good)
    left_out += twins
    gone = {twin.path for twin in twins}
    kept: list[list[Path]] = [[] for _ in classes]
    for label, path in good:
        if path not in gone:
            kept[label].append(path)
    return kept, left_out


def _fault(path: Path) -> LeftOut | None:
    """What is wrong with a file: Pillow sees where one is cut off, OpenCV is what PaddleClas decodes with."""
    try:
        data = read_picture(path)
        decode(data)
        _decode_as_paddleclas(data)
    except (OSError, PpclsExtError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        is_picture = path.suffix.lower() in SUFFIXES or not reason.startswith("not an image")
        return LeftOut(path, "unreadable" if is_picture else "no picture", reason)
    return None


def _decode_as_paddleclas(data: bytes) -> None:
    with contextlib.suppress(ImportError):  # lists can be made where nothing is trained
        import cv2
        import numpy as np

        if cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) is None:
            raise PpclsExtError("OpenCV, which PaddleClas reads pictures with, cannot decode it")


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
