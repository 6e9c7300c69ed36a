"""This project's errors, and how their text is shown."""

from __future__ import annotations

import re


class PpclsExtError(Exception):
    """A failure that the user can mend.

    The message is one line: what was got, what was expected, what to do. The tools print it on stderr and exit
    with 1, without a traceback.
    """


class NotRegularFileError(PpclsExtError):
    """A FIFO, device, socket or folder where a regular file was expected; the message begins with its path."""


class NotImageError(PpclsExtError):
    """A file that is not an image of any known format; a damaged image is a plain `PpclsExtError`."""


class FusedWeightsError(PpclsExtError):
    """Fused weights for a model that is not fused."""


class NoSuchRunError(PpclsExtError):
    """A path that is not the folder of a run, nor weights in one."""


class Interrupted(KeyboardInterrupt):
    """An interruption by the user or the system, whose message says how to go on."""


def unwrapped(error: BaseException) -> BaseException:
    """Returns the error that was raised inside a gradient written in Python; any other error unchanged.

    Paddle gives the caller an OSError with the text of the first (`fluid/eager/pylayer/py_layer_node.cc`), which begins
    with "(External)" up to 3.2 and with "Error message in backward of …" from 3.3 on.
    """
    start = r"(?:\(External\) |Error message in backward of [^\n]*\n\s*)"
    told = re.search(start + r"(\w+)(?:: (.*?))?\s*\n\s*At:\n.*py_layer_node", str(error), re.DOTALL)
    if type(error) is not OSError or told is None:
        return error
    name, text = told[1], (told[2] or "").replace("<EMPTY MESSAGE>", "")
    kinds: tuple[type[BaseException], ...] = (
        KeyboardInterrupt,
        Interrupted,
        MemoryError,
        PpclsExtError,
        *PpclsExtError.__subclasses__(),
    )
    known = {kind.__name__: kind for kind in kinds}
    return known[name](text) if name in known else RuntimeError(f"{name}: {text}")


def one_line(error: object) -> str:
    """Returns the text of an error without its line breaks."""
    return " ".join(str(error).split())


def printable(text: str) -> str:
    """Returns `text` with every character that a terminal would obey or not show replaced by its Python escape.

    File names and class names come from others, and may contain control characters and marks that reverse text.
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def shown(text: str) -> str:
    """Returns a string from a file fit for a one-line message: short, quoted, without control characters."""
    return ascii(text if len(text) <= 100 else f"{text[:100]}...")
