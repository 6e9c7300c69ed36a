"""Python's literals, given as text."""

from __future__ import annotations

import ast
import warnings
from typing import Any

from ppcls_ext.bounded_yaml import LONGEST_TEXT


def parse(text: str) -> ast.expr:
    """The syntax tree of an expression, without Python's warnings about it.

    Raises:
        ValueError: it is none, too long or nested too deeply.
    """
    if len(text) > LONGEST_TEXT:
        raise ValueError(f"it is longer than {LONGEST_TEXT:,} characters")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, RecursionError, MemoryError) as error:
        raise ValueError(str(error)) from error


def read_literal(text: str) -> Any:
    """The value of a literal: a number, text, list, tuple, set, dict, True, False or None.

    Raises:
        ValueError: it is anything else.
    """
    try:
        return ast.literal_eval(parse(text))
    except (SyntaxError, TypeError, RecursionError, MemoryError) as error:
        raise ValueError(str(error)) from error
