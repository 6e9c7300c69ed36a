"""The one error class of this project, and how its text is shown."""

from __future__ import annotations

import re


class PpclsExtError(Exception):
    """A failure that the user can mend.

    The message is one line: what was got, what was expected, what to do. The tools print it on stderr and exit
    with 1, without a traceback.
    """


class Interrupted(KeyboardInterrupt):
    """An interruption by the user or the system, whose message says how to go on."""


def interruption(error: BaseException) -> str | None:
    """What an interruption by the user or the system says; None where `error` is something else.

    An exception inside a gradient that is written in Python reaches the caller as the text of an OSError of Paddle's
    (`fluid/eager/pylayer/py_layer_node.cc`).
    """
    if isinstance(error, KeyboardInterrupt):
        return str(error) or "interrupted"
    told = re.search(r"^\s*KeyboardInterrupt\b:? *(.*)", str(error), re.MULTILINE) if type(error) is OSError else None
    return (told[1].strip() or "interrupted") if told else None


def one_line(error: object) -> str:
    """The text of an error without its line breaks."""
    return " ".join(str(error).split())


def printable(text: str) -> str:
    """`text` with all that a terminal would obey, or show as nothing, written as an escape in Python's way.

    File names and class names come from others, and may hold control characters and marks that turn text around.
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
