"""Whether each of many pictures can be decoded."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from multiprocessing.pool import ThreadPool
from pathlib import Path

from ppcls_ext.data.lists import ListEntry
from ppcls_ext.errors import PpclsExtError
from ppcls_ext.pictures.decoding import decode, read_picture


def faults(paths: Sequence[Path], report: Callable[[int, int], None] | None = None) -> list[str | None]:
    """Decodes every file to its last pixel, as training does, on all cores.

    Args:
        paths: of the files.
        report: called after each file with (files done, files in all).

    Returns:
        What is wrong with each file; None for nothing.
    """
    found = []
    with ThreadPool() as pool:  # Pillow decodes outside the interpreter lock
        for fault in pool.imap(_fault, paths, chunksize=16):
            found.append(fault)
            if report:
                report(len(found), len(paths))
    return found


def check_images(
    entries: Sequence[ListEntry], report: Callable[[int, int], None] | None = None
) -> list[tuple[ListEntry, str]]:
    """The entries of a list (`read_list`) that cannot be decoded, each with the reason, in order; see `faults`."""
    found = zip(entries, faults([entry.path for entry in entries], report))
    return [(entry, fault) for entry, fault in found if fault is not None]


def _fault(path: Path) -> str | None:
    try:
        decode(read_picture(path))
    except (OSError, PpclsExtError) as error:
        return getattr(error, "strerror", None) or str(error)
    return None
