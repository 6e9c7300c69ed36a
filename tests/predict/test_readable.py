"""Results as lines for a terminal."""

from __future__ import annotations

import pytest

from ppcls_ext.predict.readable import LONGEST_CLASS, Lines, width_of
from ppcls_ext.predict.results import NO_CLASS

RESULT = {"class_ids": [1, 0, 2], "scores": [0.97, 0.0204, 0.004], "label_names": ["rose", "tulip", "a"]}


def test_scores_stand_below_each_other():
    lines = Lines(["a.jpg", "photos/b.jpg"], ["tulip", "rose", "a"], is_chosen=False)
    assert [lines.line("a.jpg", RESULT), lines.line("photos/b.jpg", {**RESULT, "scores": [0.5, 0.3, 0.2]})] == [
        "a.jpg          rose  0.97   tulip 0.02",  # what would read 0.00 is left out
        "photos/b.jpg   rose  0.50   tulip 0.30   a     0.20",
    ]


def test_nothing_is_left_out_of_what_was_asked_for():
    assert Lines(["a"], None, is_chosen=True).line("a", RESULT) == "a   rose 0.97   tulip 0.02   a 0.00"
    low = {"class_ids": [4], "scores": [0.001], "label_names": []}
    assert Lines(["a"], None, is_chosen=False).line("a", low) == "a   class 4 0.00", "one class is always there"
    none = {"class_ids": [], "scores": [], "label_names": []}
    assert Lines(["a"], None, is_chosen=False).line("a", none) == f"a   {NO_CLASS}"


def test_wide_characters_take_two_columns():
    names = ["菊花", "rose", "cafe\u0301"]
    assert [width_of(name) for name in names] == [4, 4, 4]
    lines = Lines(["花.jpg", "a.jpg"], [*names, "tulips"], is_chosen=True)
    shown = [lines.line(file, {"class_ids": [0], "scores": [1], "label_names": [name]}) for file in ("花.jpg", "a.jpg")
             for name in names]  # fmt: skip
    assert len({width_of(line) for line in shown}) == 1


@pytest.mark.parametrize("name", ["red\x1b[31m", "a\nb", "\u202ereversed"])
def test_control_characters_are_escaped(name):
    line = Lines([name], [name], is_chosen=True).line(name, {"class_ids": [0], "scores": [1], "label_names": [name]})
    assert line.isprintable()


def test_long_names():
    """A path stays whole, as it may be copied; the name of a class is cut, and its score is not pushed away."""
    path, name = "x" * 300 + ".jpg", "very " * 30
    result = {"class_ids": [0], "scores": [0.5], "label_names": [name]}
    line = Lines([path, "a.jpg"], [name], is_chosen=False).line(path, result)
    assert line == f"{path}   {name[: LONGEST_CLASS - 1]}… 0.50"
    assert Lines([path, "a.jpg"], [name], is_chosen=False).line("a.jpg", result).index("very") == 48 + 3


def test_an_answer_of_paddleclas_that_names_no_classes():
    line = Lines(["a.jpg"], None, is_chosen=False).line("a.jpg", {"attributes": ["red\n"], "file_name": "a.jpg"})
    assert line == "a.jpg   {'attributes': ['red\\n']}"
