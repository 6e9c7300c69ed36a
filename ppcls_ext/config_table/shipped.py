"""The shipped configurations by name, such as `ImageNet/RepVGG_A0`: rendered from the table, no files are needed."""

from __future__ import annotations

import difflib
import re

from ppcls_ext.config_table.recipes import RECIPES
from ppcls_ext.config_table.render import render


def _without_family(name: str) -> str:
    return re.sub(r"^ImageNet/\w+/", "ImageNet/", name)


#: Path below configs/, without its suffix → key of `RECIPES`.
_FILES = {path.rsplit(".", 1)[0]: path for path in RECIPES}
#: Name → key of `RECIPES`.
SHIPPED = {_without_family(name): path for name, path in _FILES.items()}


def shipped(name: str) -> str | None:
    """The text of the configuration `name`; None where none is called so."""
    path = SHIPPED.get(name) or _FILES.get(name)
    return None if path is None else render(RECIPES[path])


def nearest(name: str) -> list[str]:
    """Names that resemble `name`, a name or a path; the likeliest first."""
    wanted = _without_family(re.sub(r"^.*configs/|\.ya?ml$", "", name))
    return difflib.get_close_matches(wanted, SHIPPED, n=3)
