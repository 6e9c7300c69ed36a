"""The one error class of this project."""


class PpclsExtError(Exception):
    """A failure that the user can mend.

    The message is one line: what was got, what was expected, what to do. The tools print it on stderr and exit
    with 1, without a traceback.
    """


def one_line(error: object) -> str:
    """The text of an error without its line breaks."""
    return " ".join(str(error).split())
