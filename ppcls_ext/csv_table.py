"""Tables in CSV: the one way to write them, with cells that no spreadsheet runs and no terminal obeys.

A spreadsheet computes a cell that begins with =, +, - or @, and such a formula can send data away or start programs.
Names of files and classes come from others: as OWASP advises ("CSV Injection"), an apostrophe is put before them.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable
from typing import IO

from ppcls_ext.errors import printable

#: What spreadsheets may take for a formula: also behind quotes and blanks, and in the full-width forms.
_FORMULA = re.compile(r"""["'\s]*[=+\-@＝＋－＠]""")
_NUMBER = re.compile(r"[+-]?(?:(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?|inf|nan)", re.IGNORECASE | re.ASCII)


def cell(value: object) -> object:
    """Returns a value as it is written to a cell.

    Numbers stay, and texts that are numbers. Of other texts, control characters become escapes (so that a row is one
    line), and what a spreadsheet would run gets an apostrophe in front.
    """
    if not isinstance(value, str):
        return value
    text = printable(value)
    return f"'{text}" if _FORMULA.match(text) and not _NUMBER.fullmatch(text) else text


class CsvWriter:
    """Writes rows of cells; see `cell`.

    Args:
        stream: open for writing text with newline="".
        newline: what ends a row.
    """

    def __init__(self, stream: IO[str], newline: str = "\r\n") -> None:
        self._writer = csv.writer(stream, lineterminator=newline)

    def write(self, row: Iterable[object]) -> None:
        """Writes one row."""
        self._writer.writerow([cell(value) for value in row])
