"""The one error class of this project, and how its text is shown."""


class PpclsExtError(Exception):
    """A failure that the user can mend.

    The message is one line: what was got, what was expected, what to do. The tools print it on stderr and exit
    with 1, without a traceback.
    """


class Interrupted(KeyboardInterrupt):
    """An interruption by the user or the system, whose message says how to go on."""


def one_line(error: object) -> str:
    """The text of an error without its line breaks."""
    return " ".join(str(error).split())


def printable(text: str) -> str:
    """`text` with all that a terminal would obey, or show as nothing, written as an escape in Python's way.

    File names and class names come from others, and may hold control characters and marks that turn text around.
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
