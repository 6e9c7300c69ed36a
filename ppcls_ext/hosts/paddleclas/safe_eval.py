"""A safe replacement of `eval` for PaddleClas: literals, arithmetic and names of classes, but no code.

`ppcls_ext.config` checks beforehand, with their place in the YAML file, the texts that are known to be evaluated.
`guard` covers the others: those of another version, or of a script that reads its configuration itself.
"""

from __future__ import annotations

import ast
import contextlib
import inspect
import operator
import os
import pkgutil
import sys
import warnings
from collections.abc import Callable
from types import ModuleType
from typing import Any

from ppcls_ext.bounded_yaml import LONGEST_TEXT
from ppcls_ext.errors import PpclsExtError, shown
from ppcls_ext.hosts.adaptation import patch


def parse(text: str) -> ast.expr:
    """Parses an expression, without Python's warnings about it.

    Raises:
        ValueError: the text is not an expression, is too long or nested too deeply.
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
    """Returns the value of a literal: a number, text, list, tuple, set, dict, True, False or None.

    Raises:
        ValueError: the text is anything else.
    """
    try:
        return ast.literal_eval(parse(text))
    except (SyntaxError, TypeError, RecursionError, MemoryError) as error:
        raise ValueError(str(error)) from error


OPERATORS: dict[type[ast.operator], Callable[[float, float], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}
SIGNS: dict[type[ast.unaryop], Callable[[float], float]] = {ast.UAdd: operator.pos, ast.USub: operator.neg}


def evaluate(text: str) -> int | float:
    """Returns the value of plain arithmetic: numbers, + - * /, signs and parentheses.

    Raises:
        ValueError: `text` is anything else, or divides by zero.
    """
    try:
        return _value(parse(text))
    except (RecursionError, MemoryError, ZeroDivisionError, OverflowError) as error:
        raise ValueError(str(error)) from error


def _value(node: ast.expr) -> int | float:
    if isinstance(node, ast.Constant) and isinstance(node.value, (int, float)) and type(node.value) is not bool:
        return node.value
    if isinstance(node, ast.BinOp) and type(node.op) in OPERATORS:
        return OPERATORS[type(node.op)](_value(node.left), _value(node.right))
    if isinstance(node, ast.UnaryOp) and type(node.op) in SIGNS:
        return SIGNS[type(node.op)](_value(node.operand))
    raise ValueError("only numbers, + - * / and parentheses are allowed")


#: Packages that PaddleClas imports for its own use. Anything from another package was put there by a plug-in.
TOOLS = {
    "builtins",
    "numpy",
    "PIL",
    "cv2",
    "scipy",
    "sklearn",
    "visualdl",
    "paddleslim",
    "tqdm",
    "yaml",
    "six",
    "nvidia",
}
# Python 3.9 does not list its modules
STANDARD_LIBRARY = getattr(sys, "stdlib_module_names", None) or {
    *sys.builtin_module_names,
    *(module.name for module in pkgutil.iter_modules([os.path.dirname(os.__file__)])),
}
MODEL_MODULES = "ppcls.arch.backbone"


def is_offered(value: Any) -> bool:
    """Returns whether a configuration may name `value` to have it built.

    A module of PaddleClas also holds its own imports, and every module has Python's built-in functions: none of these
    may be named. Functions may where they build models; everything else that PaddleClas builds by name is a class.
    """
    if not (inspect.isclass(value) or inspect.isfunction(value)):
        return False
    home = str(value.__module__)
    package = home.partition(".")[0]
    if package in TOOLS or package in STANDARD_LIBRARY:
        return False
    return inspect.isclass(value) or package not in ("ppcls", "paddle") or home.startswith(MODEL_MODULES)


def offered(module: ModuleType) -> list[str]:
    """Returns the names of `module` that a configuration may use."""
    return [name for name, value in vars(module).items() if not name.startswith("_") and is_offered(value)]


def find(module: ModuleType, name: str) -> Any:
    """Returns the value of a plain or dotted name (`nn.LayerNorm`) in `module`; None if it may not be used."""
    first, *rest = name.split(".")
    value = vars(module).get(first)
    for part in rest:
        if not isinstance(value, ModuleType) or value.__name__.partition(".")[0] != "paddle":
            return None
        value = vars(value).get(part)
    return value if is_offered(value) else None


class Evaluator:
    """A replacement of `eval` for one module.

    Args:
        module: the module whose names the texts may use.
    """

    def __init__(self, module: ModuleType) -> None:
        self.module = module

    def __call__(self, text: str, *scopes: dict) -> Any:
        """Returns the value of a literal or of plain arithmetic, or a class, model or data of the module.

        Raises:
            PpclsExtError: the text is anything else.
        """
        if isinstance(text, str) and not scopes:
            for read in (read_literal, evaluate):
                with contextlib.suppress(ValueError):
                    return read(text)
            data = vars(self.module).get(text)
            if isinstance(data, (bool, int, float, str, tuple, list, dict)) and text.isidentifier():
                return data
            value = find(self.module, text)
            if value is not None:
                return value
        raise PpclsExtError(
            f"PaddleClas would evaluate {shown(str(text))} in {self.module.__name__}: expected a number, or the name "
            "of a class that stands there"
        )


def is_needed() -> bool:
    """Returns whether a module of PaddleClas that is imported by now has another `eval` than its `Evaluator`."""
    return bool(_unguarded())


def guard() -> None:
    """Gives each module of PaddleClas that is imported by now its `Evaluator`."""
    for module in _unguarded():
        patch(module, "eval", Evaluator(module))


def _unguarded() -> list[ModuleType]:
    found = []
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] != "ppcls" or not isinstance(module, ModuleType):
            continue
        present = vars(module).get("eval")  # an Evaluator of another module came with `import *`
        if present is None or (isinstance(present, Evaluator) and present.module is not module):
            found.append(module)
    return found
