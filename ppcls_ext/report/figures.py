"""Figures: made without matplotlib's global state, with fonts for names in many scripts, and written atomically."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import io
import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ppcls_ext.errors import LONGEST_NAME
from ppcls_ext.files import atomic_write
from ppcls_ext.packages import require

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

logger = logging.getLogger("ppcls_ext")

DPI = 100
SIZE = 9  # pt, of all text that says nothing else
BAR = 34  # px, of a bar with its name above
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
        "font.size": SIZE,
        "text.parse_math": False,  # a name between dollar signs is no formula
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


@functools.cache
def _say_no_font() -> None:
    """Says it once in a process."""
    if importlib.util.find_spec("zhplot") is None:
        how = 'pip install "ppcls-ext[report]" brings one for Chinese and many other scripts'
    else:
        how = "install one of their script, such as one of the Noto fonts"
    logger.warning('no font has all characters of some names, which are drawn as "class 3" and the like: %s', how)


def drawable(text: str, otherwise: str) -> str:
    """Returns `text` on one line, or `otherwise` where no font has all of its characters, which is said once."""
    text = text[:LONGEST_NAME]  # no figure has room for more
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    if not line:
        return otherwise
    if not all(ord(character) in _characters() or character == " " for character in line):
        _say_no_font()
        return otherwise
    return line


@functools.lru_cache(4096)
def text_width(text: str, size: float = SIZE) -> float:
    """Returns the width in px of a line of text as matplotlib draws it.

    Args:
        text: the line.
        size: of its letters, pt.
    """
    from matplotlib.font_manager import FontProperties

    font = FontProperties(family=list(font_families()), size=size)
    return _renderer().get_text_width_height_descent(text, font, ismath=False)[0]


@functools.cache
def _renderer() -> Any:
    from matplotlib.backends.backend_agg import RendererAgg

    return RendererAgg(1, 1, DPI)


def fitted(text: str, width: float, size: float = SIZE) -> str:
    """Returns `text`, shortened where it is wider than `width`: the ellipsis stands inside, as names differ at ends.

    Args:
        text: one line.
        width: px.
        size: of its letters, pt.
    """
    if text_width(text, size) <= width:
        return text

    def cut(count: int) -> str:
        end = count // 3
        return f"{text[: count - end].rstrip()}…{text[len(text) - end :].lstrip()}"

    # the most characters that fit, of which there may be none
    few, many = 0, len(text)
    while many - few > 1:
        count = (few + many) // 2
        few, many = (count, many) if text_width(cut(count), size) <= width else (few, count)
    return cut(few)


def class_labels(names: Sequence[str] | None, classes: int, width: float = 200, size: float = SIZE) -> list[str]:
    """Returns the labels of the classes in a figure: their names as far as they can be drawn, else "class 3".

    Args:
        names: class names by index; None where there are none.
        classes: number of classes.
        width: of a label at most, px.
        size: of its letters, pt.
    """
    return [class_label(names, index, width, size) for index in range(classes)]


def class_label(names: Sequence[str] | None, index: int, width: float = 200, size: float = SIZE) -> str:
    """Returns the label of one class; see `class_labels`."""
    name = names[index] if names is not None and index < len(names) else ""
    return fitted(drawable(name, f"class {index}"), width, size)


def place_axes(drawn: Figure, left: float, top: float, width: float, height: float) -> Axes:
    """Adds axes to a figure that is laid out by hand, where matplotlib's layout does not know how wide texts may be.

    Args:
        drawn: the figure.
        left: of the axes, px from the figure's left side.
        top: px from its upper side.
        width: px.
        height: px.
    """
    drawn.set_layout_engine("none")
    whole, high = drawn.get_size_inches() * DPI
    return drawn.add_axes((left / whole, 1 - (top + height) / high, width / whole, height / high))


def draw_bars(axes: Axes, names: Sequence[str], numbers: Sequence[str], values: Sequence[float], width: float) -> None:
    """Draws a bar for each name, which stands above it and gives way to the number at its right end.

    Args:
        axes: `width` px wide, `BAR` px high for each bar; their x-axis goes from 0 to where the caller sets it.
        names: of the bars, from the top.
        numbers: of each, such as a percentage; they are never shortened.
        values: lengths of the bars.
        width: px.
    """
    places = np.arange(len(names))
    axes.barh(places, values, color=BLUE, height=0.36)
    across = axes.get_yaxis_transform()  # x as a share of the width
    for place, name, number in zip(places, names, numbers):
        text = fitted(name, width - text_width(number) - 12)
        axes.text(0, place - 0.26, text, va="bottom", transform=across)
        axes.text(1, place - 0.26, number, va="bottom", ha="right", transform=across)
    axes.set_ylim(max(len(names), 1) - 0.7, -0.8)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
