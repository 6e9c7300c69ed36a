"""Plain arithmetic given as text."""

from __future__ import annotations

import ast
import operator

from ppcls_ext.configuration.literals import parse

OPERATORS = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv}


SIGNS = {ast.UAdd: operator.pos, ast.USub: operator.neg}


def evaluate(text: str) -> int | float:
    """The value of plain arithmetic: numbers, + - * /, signs and parentheses.

    Raises:
        ValueError: `text` is anything else, or divides by zero.
    """
    try:
        return _value(parse(text))
    except (RecursionError, MemoryError, ZeroDivisionError, OverflowError) as error:
        raise ValueError(str(error)) from error


def _value(node: ast.expr) -> int | float:
    if isinstance(node, ast.Constant) and type(node.value) in (int, float):
        return node.value
    if isinstance(node, ast.BinOp) and type(node.op) in OPERATORS:
        return OPERATORS[type(node.op)](_value(node.left), _value(node.right))
    if isinstance(node, ast.UnaryOp) and type(node.op) in SIGNS:
        return SIGNS[type(node.op)](_value(node.operand))
    raise ValueError("only numbers, + - * / and parentheses are allowed")
