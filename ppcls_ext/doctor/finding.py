"""One line of the doctor's screen."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

from ppcls_ext.errors import one_line


class Finding(NamedTuple):
    """What was looked at.

    Attributes:
        name: of the thing, such as "Paddle".
        text: what was found.
        advice: what to do about it; empty where all is well.
    """

    name: str
    text: str
    advice: str = ""

    def __str__(self) -> str:
        text = f"{self.text}: {self.advice}" if self.advice else self.text
        return f"{'problem' if self.advice else 'ok':<8} {self.name:<12} {one_line(text)}"


def look(name: str, check: Callable[[], Finding]) -> Finding:
    """The finding of `check`, whose failure is one, too."""
    try:
        return check()
    except Exception as error:  # the doctor looks at what may be broken in any way
        return Finding(name, type(error).__name__, one_line(error) or "no message")


def look_at_all(checks: dict[str, Callable[[], Finding]]) -> Iterator[Finding]:
    """The findings, one after the other."""
    for name, check in checks.items():
        yield look(name, check)
