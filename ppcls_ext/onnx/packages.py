"""Other people's packages: loading the optional ones, quoting their errors. Nothing is ever installed from here."""

from __future__ import annotations

import importlib

from ppcls_ext.errors import PpclsExtError


def require(*names: str) -> None:
    """Imports the named packages, so that a missing one is noticed before any work.

    Raises:
        PpclsExtError: a package is missing or does not load.
    """
    for name in names:
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as error:
            raise PpclsExtError(f'the package {error.name} is missing: pip install "ppcls-ext[onnx]"') from error
        except Exception as error:
            raise PpclsExtError(
                f'the package {name} does not load ({one_line(error)}): reinstall it, pip install "ppcls-ext[onnx]"'
            ) from error


def one_line(error: object) -> str:
    """The text of an error without its line breaks."""
    return " ".join(str(error).split())
