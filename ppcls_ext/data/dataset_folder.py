"""Data set folders that a tool generates as a whole and recognises by the settings stored in them."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from ppcls_ext.errors import PpclsExtError
from ppcls_ext.files import read_regular

Settings = dict[str, Any]
LARGEST_SETTINGS = 1 << 16
"""Bytes of a settings file."""


class DatasetKind(NamedTuple):
    """A kind of data set that a tool generates.

    Attributes:
        settings_file: the name of the file that stores the settings.
        contents: the names of everything else in the folder.
        write: fills an empty folder according to the settings.
        fault: returns what a folder with these settings lacks; None if it is complete.
    """

    settings_file: str
    contents: frozenset[str]
    write: Callable[[Path, Settings], None]
    fault: Callable[[Path, Settings], str | None]


def make_folder(output: Path, kind: DatasetKind, settings: Settings, force: bool) -> bool:
    """Makes `output`, which appears complete or not at all.

    Args:
        output: the folder; it may exist if it is empty or was made by the same tool.
        kind: the kind of data set.
        settings: JSON values.
        force: whether to replace a folder that was made with other settings or is damaged.

    Returns:
        False if the same data set exists already.

    Raises:
        PpclsExtError: the folder contains something else, or cannot be written.
    """
    output = Path(os.path.realpath(output))  # a linked folder is replaced, not its link
    occupied = output.is_dir() and any(output.iterdir())
    if occupied and _is_there(output, kind, settings, force):
        return False
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{output.name}.", dir=output.parent) as aside:
            made = Path(aside, "made")
            made.mkdir()
            kind.write(made, settings)
            (made / kind.settings_file).write_text(json.dumps(settings) + "\n", encoding="utf-8")
            if occupied:
                output.rename(Path(aside, "replaced"))
            elif output.is_dir():
                output.rmdir()
            made.rename(output)
    except OSError as error:
        raise PpclsExtError(f"cannot write {output}: {error.strerror or error}; choose another --output") from error
    return True


def _is_there(output: Path, kind: DatasetKind, settings: Settings, force: bool) -> bool:
    """Returns whether `output` is exactly this data set and complete; False if it may be replaced."""
    foreign = {file.name for file in output.iterdir()} - {kind.settings_file, *kind.contents}
    if foreign or not (output / kind.settings_file).is_file():
        what = f" ({min(foreign)})" if foreign else ""
        raise PpclsExtError(f"{output} holds files that this tool did not make{what}; choose another --output")
    try:
        found = json.loads(read_regular(output / kind.settings_file, LARGEST_SETTINGS))
    except (ValueError, RecursionError):
        found = "unreadable settings"
    if found == settings:
        fault = kind.fault(output, settings)
        if fault is None:
            return True
    else:
        fault = f"it was made with {found}, now {settings} is asked for"
    if not force:
        raise PpclsExtError(
            f"{output} is there, but {fault}; use --force to replace the folder or choose another --output"
        )
    return False
