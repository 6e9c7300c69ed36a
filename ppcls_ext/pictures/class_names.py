"""PaddleClas's file of class names."""

from __future__ import annotations

import os
import re
from pathlib import Path

from ppcls_ext.errors import PpclsExtError


def read_class_names(path: str | os.PathLike, delimiter: str = " ") -> tuple[str, ...]:
    """Reads PaddleClas's `class_id_map_file`: one "index name" per line, UTF-8.

    Returns:
        Names by index; "" for an index that the file leaves out.

    Raises:
        PpclsExtError: the file cannot be read, or a line is no index and name; names the line.
    """
    names = {}
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8"
        raise PpclsExtError(
            f"cannot read the class names {path}: {reason}; mend Infer.PostProcess.class_id_map_file, or set it to null"
        ) from error
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        index, _, name = line.partition(delimiter)
        if not re.fullmatch(r"\d{1,6}", index) or int(index) in names:
            raise PpclsExtError(f"{path}:{number}: got {line!r}, expected a new class index, {delimiter!r} and a name")
        names[int(index)] = name.strip()
    return tuple(names.get(index, "") for index in range(max(names, default=-1) + 1))
