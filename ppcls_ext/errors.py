"""This project's errors, and how their text is shown."""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections.abc import Iterable


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
    """Returns the error that was raised inside a gradient or a tensor's hook in Python; any other error unchanged.

    Paddle gives the caller an OSError with the text of the first (`fluid/eager/pylayer/py_layer_node.cc`, of hooks
    `fluid/pybind/eager_utils.cc`), which begins with "(External)" up to 3.2 and of hooks, and with "Error message in
    backward of …" from 3.3 on. Behind the last gradient it gives a SystemError with the first as its cause.
    """
    if type(error) is SystemError and isinstance(error.__cause__, KeyboardInterrupt):
        return error.__cause__
    start = r"(?:\(External\) |Error message in backward of [^\n]*\n\s*)"
    told = re.search(start + r"(\w+)(?:: (.*?))?\s*\n\s*At:\n.*(?:py_layer_node|eager_utils)", str(error), re.DOTALL)
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


#: Characters of a name (of a class, a file) that a message or a table shows, and of a whole message.
LONGEST_NAME, LONGEST_MESSAGE = 200, 4000
#: Joiners of Persian, Indic and other scripts, which terminals show, though `isprintable` says otherwise.
_JOINERS = "\u200c\u200d"


def printable(text: str, longest: int | None = None) -> str:
    """Returns `text` with every character that a terminal would obey or not show replaced by its Python escape.

    File names and class names come from others, and may contain control characters and marks that reverse text.

    Args:
        text: of any length; the time is linear in it.
        longest: the most characters to keep of it; "…" stands for the rest. None keeps all.
    """
    if longest is not None and len(text) > longest:
        text = f"{text[:longest]}…"
    if text.isprintable():
        return text
    odd = {c for c in set(text) if not (c.isprintable() or c in _JOINERS or unicodedata.category(c) == "Zs")}
    return text.translate({ord(c): c.encode("unicode_escape").decode() for c in odd})


def printable_name(text: object) -> str:
    """Returns a name from others fit for a message or a table: printable, at most `LONGEST_NAME` characters."""
    return printable(str(text), LONGEST_NAME)


def printable_lines(text: object) -> str:
    """Returns a text of several lines, each of them printable."""
    return "\n".join(printable(line, LONGEST_MESSAGE) for line in str(text).split("\n"))


def message_line(error: object) -> str:
    """Returns an error's text fit for a terminal: on one line, printable, at most `LONGEST_MESSAGE` characters.

    What is too long loses its middle: the beginning says what happened, the end often what to do.
    """
    text = str(error)
    if len(text) > LONGEST_MESSAGE:
        end = LONGEST_MESSAGE // 4
        text = f"{text[: LONGEST_MESSAGE - end]} … {text[-end:]}"
    return printable(one_line(text))


#: Names that a message lists.
MOST_NAMES = 40


def one_of(wanted: object, names: Iterable[str]) -> str:
    """Returns what a name could have been, for a message: all names, those that resemble it first.

    Args:
        wanted: what was given.
        names: those that there are; of many, the first `MOST_NAMES` are listed.
    """
    known = list(dict.fromkeys(names))
    text = str(wanted)[:LONGEST_NAME].lower()
    near = difflib.get_close_matches(text, [name.lower() for name in known], n=5, cutoff=0.5)
    known.sort(key=lambda name: near.index(name.lower()) if name.lower() in near else len(near))
    more = f" and {len(known) - MOST_NAMES} more" if len(known) > MOST_NAMES else ""
    return ", ".join(map(printable_name, known[:MOST_NAMES])) + more


def shown(text: str) -> str:
    """Returns a string from a file fit for a one-line message: short, quoted, without control characters."""
    return ascii(text if len(text) <= 100 else f"{text[:100]}...")
