"""PaddleClas's file of class names."""

from __future__ import annotations

import os
import re

from ppcls_ext.errors import PpclsExtError
from ppcls_ext.files import read_regular

LARGEST = 1 << 26
"""Bytes of a file of names; indices have up to six digits."""


def read_class_names(path: str | os.PathLike, delimiter: str = " ") -> tuple[str, ...]:
    """Reads PaddleClas's `class_id_map_file`: one "index name" per line, UTF-8.

    Returns:
        Names by index; "" for an index that the file leaves out.

    Raises:
        PpclsExtError: the file cannot be read, or a line is no index and name; names the line.
    """
    names = {}
    try:
        lines = read_regular(path, LARGEST).decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n").split("\n")
    except (OSError, UnicodeDecodeError, PpclsExtError) as error:
        reason = (
            str(error) if isinstance(error, PpclsExtError) else getattr(error, "strerror", None) or "it is not UTF-8"
        )
        raise PpclsExtError(
            f"cannot read the class names {path}: {reason}; mend Infer.PostProcess.class_id_map_file, or set it to null"
        ) from error
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        index, _, name = line.partition(delimiter)
        if not re.fullmatch(r"\d{1,6}", index) or int(index) in names:
            raise PpclsExtError(
                f"{path}:{number}: got {line[:99]!r}, expected a new class index, {delimiter!r} and a name"
            )
        names[int(index)] = name.strip()
    return tuple(names.get(index, "") for index in range(max(names, default=-1) + 1))
