"""Figures: made without matplotlib's global state, with fonts for names in many scripts, and written atomically."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import io
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ppcls_ext.errors import LONGEST_NAME
from ppcls_ext.files import atomic_write
from ppcls_ext.packages import require

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DPI = 100
BLUE, ORANGE, GREY, RED = "#2a6fbb", "#e07b28", "#8a8a8a", "#c0392b"
#: Packages that bring a font with Chinese characters, and the font's place in the package.
FONT_PACKAGES = {"zhplot": "fonts/NotoSansSC-Regular.ttf", "mplfonts": "fonts/NotoSansCJKsc-Regular.otf"}
#: Families with many scripts, the better ones first; matplotlib knows those that the system has.
SYSTEM_FAMILIES = (
    "Noto Sans CJK SC",
    "Noto Sans SC",
    "Source Han Sans SC",
    "WenQuanYi Zen Hei",
    "WenQuanYi Micro Hei",
    "Microsoft YaHei",
    "SimHei",
    "PingFang SC",
    "PingFang HK",
    "Unifont",
    "Arial Unicode MS",
)


@contextlib.contextmanager
def figure(path: str | os.PathLike, width: float, height: float) -> Iterator[Figure]:
    """Yields a figure and writes it as PNG when the block ends; nothing is written where the block fails.

    Args:
        path: the PNG file.
        width: px.
        height: px.

    Raises:
        PpclsExtError: matplotlib is missing, or the file cannot be written.
    """
    require("matplotlib")
    import matplotlib
    from matplotlib.figure import Figure

    style = {
        "font.family": list(font_families()),
        "font.size": 9,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": False,
    }
    with matplotlib.rc_context(style):
        drawn = Figure(figsize=(width / DPI, height / DPI), dpi=DPI, layout="constrained")
        yield drawn
        content = io.BytesIO()
        drawn.savefig(content, format="png", metadata={"Software": "ppcls_ext"})
    with atomic_write(path) as stream:
        stream.write(content.getbuffer())


@functools.cache
def font_families() -> tuple[str, ...]:
    """Returns the families of matplotlib's fallback list: each character is drawn in the first one that has it.

    DejaVu Sans comes with matplotlib (Latin, Greek, Cyrillic, Arabic and more); then come a font package's font and
    the system's fonts.
    """
    from matplotlib import font_manager

    families = ["DejaVu Sans"]
    for package, place in FONT_PACKAGES.items():
        spec = importlib.util.find_spec(package)  # importing the package would change matplotlib's settings
        if spec is not None and spec.origin is not None and (font := Path(spec.origin).parent / place).is_file():
            font_manager.fontManager.addfont(font)
            families.append(font_manager.FontProperties(fname=font).get_name())
    known = set(font_manager.get_font_names())
    return tuple(dict.fromkeys([*families, *(family for family in SYSTEM_FAMILIES if family in known)]))


@functools.cache
def _characters() -> frozenset[int]:
    """Returns the code points that at least one family has."""
    from matplotlib import font_manager
    from matplotlib.ft2font import FT2Font

    paths = {font_manager.findfont(family) for family in font_families()}
    return frozenset().union(*(FT2Font(path).get_charmap() for path in paths))


def drawable(text: str, otherwise: str) -> str:
    """Returns `text` on one line, or `otherwise` with a remark where no font has all of its characters.

    Dollar signs are escaped: matplotlib would take the text between two of them for a formula.
    """
    text = text[:LONGEST_NAME]  # no figure has room for more
    shown = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    if not shown:
        shown = otherwise
    elif not all(ord(character) in _characters() or character == " " for character in shown):
        shown = f"{otherwise} (no font for its name)"
    return shown.replace("$", r"\$")


def shortened(text: str, length: int) -> str:
    """Returns at most `length` characters of `text`."""
    return text if len(text) <= length else f"{text[: length - 1]}…"


def class_labels(names: Sequence[str] | None, classes: int, length: int = 24) -> list[str]:
    """Returns the labels of the classes in a figure: their names as far as they can be drawn, else "class 3".

    Args:
        names: class names by index; None where there are none.
        classes: number of classes.
        length: maximum length of a label, in characters.
    """
    known = list(names or ())[:classes]
    known += [""] * (classes - len(known))
    return [
        shortened(drawable(name, f"class {i}"), length) if name.strip() else f"class {i}"
        for i, name in enumerate(known)
    ]
