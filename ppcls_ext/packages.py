"""Other people's packages: loading the optional ones, quoting their errors. Nothing is ever installed from here."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType

from ppcls_ext.errors import PpclsExtError, one_line

#: The newest Python that a package has wheels for, where that is not the newest that this project runs on.
NEWEST_PYTHON = {"paddle2onnx": (3, 12)}


def require(*names: str) -> None:
    """Imports the named packages, so that a missing one is noticed before any work.

    Raises:
        PpclsExtError: a package is missing or does not load.
    """
    for name in names:
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as error:
            raise PpclsExtError(_missing(str(error.name))) from error
        except Exception as error:
            raise PpclsExtError(
                f'the package {name} does not load ({one_line(error)}): reinstall it, pip install "ppcls-ext[onnx]"'
            ) from error


def _missing(package: str) -> str:
    newest = NEWEST_PYTHON.get(package)
    if newest is None or sys.version_info[:2] <= newest:
        return f'the package {package} is missing: pip install "ppcls-ext[onnx]"'
    python, last = (".".join(map(str, version)) for version in (sys.version_info[:2], newest))
    return (
        f"the package {package} is missing, and it has no wheel for Python {python}: export to ONNX with Python 3.9 to "
        f"{last} (make install PYTHON=python{last}); all else works with Python {python}"
    )


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
