"""Progress of what takes longer than two seconds: a bar on a terminal, lines elsewhere."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

FIRST, EVERY = 2.0, 20.0
"""Seconds before the bar or the first line, and between lines."""

Report = Callable[[int, int], None]


_hidden = False


@contextlib.contextmanager
def hidden() -> Iterator[None]:
    """A context in which nothing is shown of any progress."""
    global _hidden
    before, _hidden = _hidden, True
    try:
        yield
    finally:
        _hidden = before


@contextlib.contextmanager
def progress(what: str, unit: str = "images") -> Iterator[Report]:
    """Shows on stderr how far its body is, once that takes longer than two seconds.

    Args:
        what: what is done, such as "reading images".
        unit: what is counted.

    Yields:
        The function that tells (done, all).
    """
    start = time.monotonic()
    last, tqdm, bar = start + FIRST - EVERY, _tqdm(), None
    with contextlib.ExitStack() as stack:

        def report(done: int, total: int) -> None:
            nonlocal last, bar
            now = time.monotonic()
            if _hidden or now < start + FIRST:
                return
            if bar is not None:
                bar.total = total
                bar.update(done - bar.n)
            elif tqdm is not None:  # made late, as `say` would show one that still waits
                options = {"desc": what, "unit": f" {unit}", "file": sys.stderr, "leave": False}
                bar = stack.enter_context(tqdm(total=total, initial=done, **options))
            elif now - last >= EVERY:
                last = now
                print(f"{what}: {done} of {total} {unit}, {now - start:.0f} s", file=sys.stderr, flush=True)

        yield report


def ticks(report: Report, total: int) -> Callable[..., None]:
    """Returns a function that reports one more of `total`, or as many more as it is called with."""
    done = 0

    def tick(count: int = 1) -> None:
        nonlocal done
        done += count
        report(done, total)

    return tick


def say(line: str) -> None:
    """Prints a line on stderr, above a bar where one is shown."""
    tqdm = _tqdm()
    if tqdm is None:
        print(line, file=sys.stderr, flush=True)
    else:
        tqdm.write(line, file=sys.stderr)


def _tqdm() -> Any:
    """Returns the class of bars; None where there is no terminal, or no tqdm, which predicting does not need."""
    if not sys.stderr.isatty():
        return None
    try:
        from tqdm import tqdm
    except ModuleNotFoundError:
        return None
    return tqdm
