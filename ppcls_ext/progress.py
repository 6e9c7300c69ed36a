"""Progress of what takes longer than two seconds: a bar on a terminal, lines elsewhere."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator

from ppcls_ext.packages import import_extra

FIRST, EVERY = 2.0, 20.0
"""Seconds before the bar or the first line, and between lines."""

Report = Callable[[int, int], None]


@contextlib.contextmanager
def progress(what: str, unit: str = "images") -> Iterator[Report]:
    """Shows on stderr how far its body is, once that takes longer than two seconds.

    Args:
        what: what is done, such as "reading images".
        unit: what is counted.

    Yields:
        The function that tells (done, all).
    """
    tqdm = import_extra("tqdm").tqdm
    start = time.monotonic()
    last, is_terminal = start + FIRST - EVERY, sys.stderr.isatty()
    with tqdm(desc=what, unit=f" {unit}", file=sys.stderr, disable=not is_terminal, leave=False, delay=FIRST) as bar:

        def report(done: int, total: int) -> None:
            nonlocal last
            bar.total = total
            bar.update(done - bar.n)
            now = time.monotonic()
            if not is_terminal and now - last >= EVERY:
                last = now
                print(f"{what}: {done} of {total} {unit}, {now - start:.0f} s", file=sys.stderr, flush=True)

        yield report
