"""PaddleClas's own errors while it builds what a configuration asks for, in one line that names the section."""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import Iterator
from pathlib import Path

from ppcls_ext.errors import PpclsExtError, one_line

#: The folder below ppcls/ in which an error came up → the section that asked for it.
SECTIONS = {
    "data": "DataLoader",
    "loss": "Loss",
    "metric": "Metric",
    "metrics": "Metric",
    "optimizer": "Optimizer",
    "arch": "Arch",
}
#: What PaddleClas raises at values that it cannot use.
RAISED = (AssertionError, AttributeError, IndexError, KeyError, NotImplementedError, TypeError, ValueError)


@contextlib.contextmanager
def naming_sections() -> Iterator[None]:
    """Turns PaddleClas's errors in its body into a PpclsExtError that names the section of the configuration."""
    try:
        yield
    except RAISED as error:
        section = _section(error)
        if section is None:
            raise
        raise PpclsExtError(
            f"PaddleClas cannot build the section {section}: {type(error).__name__}: {one_line(error)}; mend its "
            "values (PPCLS_EXT_DEBUG=1 shows where)"
        ) from error


def _section(error: BaseException) -> str | None:
    """The section whose part of PaddleClas raised an error; None where it came from elsewhere."""
    found = None
    for frame in traceback.extract_tb(error.__traceback__):
        parts = Path(frame.filename).parts
        if "ppcls" in parts:
            below = parts[parts.index("ppcls") + 1]
            found = SECTIONS.get(below, found)
    return found
