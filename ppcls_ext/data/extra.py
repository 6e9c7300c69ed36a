"""Libraries that only the `engine` extra installs."""

from __future__ import annotations

import importlib
from types import ModuleType

from ppcls_ext.errors import PpclsExtError


def import_extra(module: str) -> ModuleType:
    """Imports a module that the `engine` extra installs.

    Raises:
        PpclsExtError: it is not installed, or broken.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise PpclsExtError(
            f"cannot import {module} ({error}); the extra named engine installs it: pip install 'ppcls-ext[engine]', "
            "or pip install '.[engine]' in a checkout"
        ) from error
