"""ppcls_ext.hosts.quiet: nothing gets through, and everything is as before afterwards."""

from __future__ import annotations

import logging
import os
import sys

import pytest

from ppcls_ext.hosts.quiet import captured_output, logging_from


def test_output_of_python_and_of_libraries_is_kept_off_the_screen(capfd):
    with captured_output() as output:
        print("Python")
        print("a stream of before", file=sys.__stdout__)
        os.write(2, b"a library\n")
        sys.__stdout__.flush()
        output.seek(0)
        caught = output.read()
    assert {"Python", "a stream of before", "a library"} == set(caught.splitlines())
    print("again")
    os.write(2, b"and again\n")
    assert capfd.readouterr() == ("again\n", "and again\n")


def test_the_screen_is_back_after_a_failure(capfd):
    with pytest.raises(ZeroDivisionError):
        _fail()
    print("again")
    assert capfd.readouterr() == ("again\n", "")


@captured_output()
def _fail() -> None:
    print(1 / 0)


def test_a_logger_gets_its_level_back():
    logger = logging.getLogger("ppcls_ext.test_quiet")
    logger.setLevel(logging.INFO)
    with logging_from(logging.CRITICAL, logger):
        assert not logger.isEnabledFor(logging.ERROR)
    assert logger.level == logging.INFO
