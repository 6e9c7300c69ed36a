"""Figures: made without matplotlib's global state, written whole."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

from ppcls_ext.files import atomic_write
from ppcls_ext.packages import require
from ppcls_ext.report.fonts import font_families

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DPI = 100
BLUE, ORANGE, GREY, RED = "#2a6fbb", "#e07b28", "#8a8a8a", "#c0392b"


@contextlib.contextmanager
def figure(path: str | os.PathLike, width: float, height: float) -> Iterator[Figure]:
    """A figure that is written as PNG when the block is done; nothing is written where it fails.

    Args:
        path: the PNG.
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
