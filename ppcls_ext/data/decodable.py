"""Whether every image of a list can be decoded."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from multiprocessing.pool import ThreadPool

from PIL import Image

from ppcls_ext.data.lists import ListEntry


def check_images(
    entries: Sequence[ListEntry],
    report: Callable[[int, int], None] | None = None,
    fault: Callable[[ListEntry], str | None] | None = None,
) -> list[tuple[ListEntry, str]]:
    """Decodes every image to its last pixel, on all cores.

    Args:
        entries: what `read_list` returned.
        report: called after each image with (images done, images in all).
        fault: what is wrong with an image, None for nothing; by default, that Pillow cannot decode it.

    Returns:
        The entries that cannot be decoded, each with the reason, in the list's order.
    """
    bad = []
    with ThreadPool() as pool:  # Pillow decodes outside the interpreter lock
        for done, (entry, text) in enumerate(zip(entries, pool.imap(fault or decode, entries, chunksize=16)), 1):
            if text:
                bad.append((entry, text))
            if report:
                report(done, len(entries))
    return bad


def decode(entry: ListEntry) -> str | None:
    """Decodes an image with Pillow; returns what is wrong with it, None for nothing."""
    try:
        with Image.open(entry.path) as image:
            image.load()
    except Exception as error:  # damaged bytes make decoders raise nearly anything
        return f"{type(error).__name__}: {error}"
    return None
