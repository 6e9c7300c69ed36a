"""The files of an exported Paddle program as one set: the list of their digests beside them, as sha256sum writes it."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from ppcls_ext.errors import PpclsExtError
from ppcls_ext.files import read_regular

DIGESTS = "inference.sha256"
LARGEST = 1 << 16  # bytes of that list
#: The names that an export gives its files.
FILES = r"inference\w*\.(json|pdmodel|pdiparams|pdiparams\.info|yml|sha256)"


def digests_of(folder: Path) -> str:
    """The digests of an export's files in `folder`; `sha256sum -c` reads them."""
    names = sorted(path.name for path in folder.iterdir() if path.name != DIGESTS)
    return "".join(f"{hashlib.sha256((folder / name).read_bytes()).hexdigest()}  {name}\n" for name in names)


def require_one_set(folder: Path) -> None:
    """Checks that the files in `folder` are of one export; without a list, as of older exports, they are not compared.

    Raises:
        PpclsExtError: a file is missing, or is not the one that was written with the others; or the list is damaged.
    """
    try:
        lines = read_regular(folder / DIGESTS, LARGEST).decode().splitlines()
    except FileNotFoundError:
        return
    except (OSError, UnicodeDecodeError) as error:
        raise PpclsExtError(f"cannot read {folder / DIGESTS}: {error}; export again") from error
    for line in lines:
        digest, _, name = line.partition("  ")
        if not re.fullmatch(FILES, name):
            raise PpclsExtError(f"{folder / DIGESTS} is damaged: {name!r} is no file of an export; export again")
        path = folder / name
        if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != digest:
            raise PpclsExtError(
                f"{path} is missing, was changed or is of another export than the files beside it: export again"
            )
