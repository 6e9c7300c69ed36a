"""Results as lines for a terminal: a name, then the classes with their scores, in columns."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ppcls_ext.errors import printable
from ppcls_ext.predict.results import NO_CLASS

#: The widest columns, and the longest name of a class; columns of a terminal.
WIDEST_NAME, WIDEST_CLASS, LONGEST_CLASS = 48, 20, 40
#: Classes below this score are left out where nobody has said which ones to show: they would read 0.00.
SHOWN_FROM = 0.005


class Lines:
    """Makes a line of each result.

    Args:
        names: what the lines will begin with, such as the image files.
        class_names: of the network; None where unknown.
        is_chosen: whether the classes were chosen by a number or a threshold, and none is left out.
    """

    def __init__(self, names: Iterable[str], class_names: Sequence[str] | None, is_chosen: bool) -> None:
        self._name = min(max((width_of(printable(name)) for name in names), default=0), WIDEST_NAME)
        self._class = min(max((width_of(_short(name)) for name in class_names or ()), default=0), WIDEST_CLASS)
        self._is_chosen = is_chosen

    def line(self, name: str, result: Mapping[str, Any]) -> str:
        """Returns the line of a result.

        Args:
            name: of the image, or what else the line is about; it is never cut.
            result: "class_ids", "scores" and "label_names" as `Classifier` returns them, or PaddleClas's own answer.
        """
        start = padded(printable(name), self._name)
        if "class_ids" not in result:
            return f"{start}   {printable(str({key: value for key, value in result.items() if key != 'file_name'}))}"
        if not result["class_ids"]:
            return f"{start}   {NO_CLASS}"
        names = result.get("label_names") or [""] * len(result["class_ids"])
        rows = list(zip(result["class_ids"], names, result["scores"]))
        if not self._is_chosen:
            rows = rows[:1] + [row for row in rows[1:] if row[2] >= SHOWN_FROM]
        cells = [
            f"{padded(_short(label or f'class {index}'), self._class)} {score:.2f}" for index, label, score in rows
        ]
        return "   ".join([start, *cells])


def _short(name: str) -> str:
    shown = printable(name)
    return shown if len(shown) <= LONGEST_CLASS else f"{shown[: LONGEST_CLASS - 1]}…"


def padded(text: str, width: int) -> str:
    """Returns a text with blanks up to a width, in columns of a terminal."""
    return text + " " * (width - width_of(text))


def width_of(text: str) -> int:
    """Returns how many columns of a terminal a printable text takes: two for a Chinese character, none for a mark."""
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.combining(letter) else 2 if unicodedata.east_asian_width(letter) in "WF" else 1
        for letter in text
    )
