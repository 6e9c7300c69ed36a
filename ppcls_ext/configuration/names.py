"""Which names in a module of PaddleClas a configuration may name: PaddleClas's and Paddle's classes, and models."""

from __future__ import annotations

import inspect
import os
import pkgutil
import sys
from types import ModuleType
from typing import Any

#: Packages that PaddleClas imports for its own use. What comes from any other package was put there by a plug-in.
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
MODELS = "ppcls.arch.backbone"


def is_offered(value: Any) -> bool:
    """Whether `value` may be built because a configuration names it.

    A module of PaddleClas also holds what it imports to do its work, and every module has Python's built-in functions:
    none of these. Functions count where they are models; everything else that PaddleClas builds by name is a class.
    """
    if not (inspect.isclass(value) or inspect.isfunction(value)):
        return False
    home = str(value.__module__)
    package = home.partition(".")[0]
    if package in TOOLS or package in STANDARD_LIBRARY:
        return False
    return inspect.isclass(value) or package not in ("ppcls", "paddle") or home.startswith(MODELS)


def offered(module: ModuleType) -> list[str]:
    """The names of `module` that a configuration may name."""
    return [name for name, value in vars(module).items() if not name.startswith("_") and is_offered(value)]


def find(module: ModuleType, name: str) -> Any:
    """What a plain or dotted name (`nn.LayerNorm`) means in `module`, if a configuration may name it; else None."""
    first, *rest = name.split(".")
    value = vars(module).get(first)
    for part in rest:
        if not isinstance(value, ModuleType) or value.__name__.partition(".")[0] != "paddle":
            return None
        value = vars(value).get(part)
    return value if is_offered(value) else None
