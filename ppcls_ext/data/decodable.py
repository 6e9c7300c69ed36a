"""Whether every image of a list can be decoded."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from multiprocessing.pool import ThreadPool

from ppcls_ext.data.lists import ListEntry
from ppcls_ext.errors import PpclsExtError
from ppcls_ext.pictures import decoding


def check_images(
    entries: Sequence[ListEntry], report: Callable[[int, int], None] | None = None
) -> list[tuple[ListEntry, str]]:
    """Decodes every image to its last pixel, on all cores.

    Args:
        entries: what `read_list` returned.
        report: called after each image with (images done, images in all).

    Returns:
        The entries that cannot be decoded, each with the reason, in the list's order.
    """
    bad = []
    with ThreadPool() as pool:  # Pillow decodes outside the interpreter lock
        for done, (entry, text) in enumerate(zip(entries, pool.imap(decode, entries, chunksize=16)), 1):
            if text:
                bad.append((entry, text))
            if report:
                report(done, len(entries))
    return bad


def decode(entry: ListEntry) -> str | None:
    """Decodes an image as training does; returns what is wrong with it, None for nothing."""
    try:
        decoding.decode(decoding.read_picture(entry.path))
    except (OSError, PpclsExtError) as error:
        return getattr(error, "strerror", None) or str(error)
    return None
