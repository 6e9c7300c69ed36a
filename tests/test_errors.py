"""Text from strangers: printable in linear time, and bounded where it is a message or a table."""

from __future__ import annotations

import time

import pytest

from ppcls_ext.errors import LONGEST_MESSAGE, LONGEST_NAME, message_line, printable, printable_lines, printable_name


@pytest.mark.parametrize("unit", ["rose\x1b[31m", "菊花 ", "\x00", "a\u202e", "".join(map(chr, range(0x3000)))])
def test_long_names_take_linear_time(unit):
    text = unit * (4_000_000 // len(unit))
    start = time.process_time()
    found = printable(text)
    assert time.process_time() - start < 60  # quadratic: hours
    assert found == printable(unit) * (4_000_000 // len(unit))


def test_what_scripts_need_stays():
    for text in ("می\u200cخواهم", "क्\u200dष", "Mme\u00a0Curie", "红\u3000花"):
        assert printable(text) == text


def test_a_name_in_a_message_is_bounded():
    assert printable_name("r" * 50_000_000) == "r" * LONGEST_NAME + "…"
    assert printable_name("rose\x07") == "rose\\x07"


def test_a_message_keeps_its_beginning_and_its_end():
    line = message_line(f"x.onnx: the class {'r' * 50_000_000}\nis unknown: export it again")
    assert line.startswith("x.onnx: the class r")
    assert line.endswith("r is unknown: export it again")
    assert len(line) <= LONGEST_MESSAGE + 3
    assert message_line("two\n lines") == "two lines"


def test_lines_stay_lines():
    assert printable_lines("a\x1b\nb") == "a\\x1b\nb"
