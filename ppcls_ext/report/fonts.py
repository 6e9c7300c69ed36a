"""Fonts for class names in any script."""

from __future__ import annotations

import functools
import importlib.util
from pathlib import Path

#: Packages that bring a font with Chinese characters, and where in them it lies.
FONT_PACKAGES = {"zhplot": "fonts/NotoSansSC-Regular.ttf", "mplfonts": "fonts/NotoSansCJKsc-Regular.otf"}
#: Parts of the file names of system fonts with many scripts, the better ones first.
SYSTEM_FONTS = (
    "notosanscjk",
    "notosanssc",
    "sourcehansans",
    "wqy",
    "msyh",
    "simhei",
    "pingfang",
    "unifont",
    "arialuni",
)


@functools.cache
def font_families() -> tuple[str, ...]:
    """The families that text is drawn in: each character in the first that has it.

    DejaVu Sans comes with matplotlib (Latin, Greek, Cyrillic, Arabic, …); then a font package's, then the system's.
    """
    from matplotlib import font_manager

    families = ["DejaVu Sans"]
    for path in _font_files():
        try:
            font_manager.fontManager.addfont(path)
            families.append(font_manager.FontProperties(fname=path).get_name())
        except (OSError, RuntimeError):  # matplotlib cannot read every font file
            continue
    return tuple(dict.fromkeys(families))


def _font_files() -> list[str]:
    from matplotlib import font_manager

    found = []
    for package, place in FONT_PACKAGES.items():
        spec = importlib.util.find_spec(package)  # the package itself is not imported
        if spec is not None and spec.origin is not None and (path := Path(spec.origin).parent / place).is_file():
            found.append(str(path))
    system = font_manager.findSystemFonts()
    for part in SYSTEM_FONTS:
        found += sorted(path for path in system if part in Path(path).name.lower())[:1]
    return found


@functools.cache
def _characters() -> frozenset[int]:
    """The code points that some family has."""
    from matplotlib import font_manager
    from matplotlib.ft2font import FT2Font

    paths = {font_manager.findfont(family) for family in font_families()}
    return frozenset().union(*(FT2Font(path).get_charmap() for path in paths))


def drawable(text: str, otherwise: str) -> str:
    """`text` on one line, or `otherwise` with a remark where no font has all of its characters.

    Dollar signs are escaped: matplotlib would take what is between two of them for a formula.
    """
    shown = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    if not shown:
        shown = otherwise
    elif not all(ord(character) in _characters() or character == " " for character in shown):
        shown = f"{otherwise} (no font for its name)"
    return shown.replace("$", r"\$")


def shortened(text: str, length: int) -> str:
    """At most `length` characters of `text`."""
    return text if len(text) <= length else f"{text[: length - 1]}…"
