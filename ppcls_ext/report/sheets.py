"""Sheets: many small pictures with captions on one."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence

import numpy as np

from ppcls_ext.report.figures import RED, figure
from ppcls_ext.report.fonts import drawable, shortened

#: Pictures on one sheet.
LARGEST = 64
CELL, LINE = 150, 14  # px


def draw_sheet(
    pictures: Sequence[np.ndarray],
    captions: Sequence[str],
    title: str,
    path: str | os.PathLike,
    marked: Sequence[bool] | None = None,
) -> int:
    """Draws up to `LARGEST` pictures in rows.

    Args:
        pictures: (H, W, 3) uint8 each, of any sizes.
        captions: one each; lines are separated by a line feed.
        title: of the sheet.
        path: the PNG.
        marked: whose captions are red.

    Returns:
        How many pictures are on it.
    """
    count = min(len(pictures), LARGEST)
    columns = min(8, max(1, math.ceil(math.sqrt(count))))
    rows = max(1, math.ceil(count / columns))
    lines = max([caption.count("\n") + 1 for caption in captions[:count]], default=1)
    height = CELL + LINE * lines  # of a cell with its caption
    # one pair of axes in px: matplotlib takes seconds to lay out 64
    with figure(path, max(360, columns * CELL), 40 + rows * height) as drawn:
        drawn.suptitle(drawable(title, "pictures"), fontsize=10)
        axes = drawn.subplots()
        axes.axis("off")
        for index, picture in enumerate(pictures[:count]):
            row, column = divmod(index, columns)
            extent = _centred(picture, column * CELL, row * height + LINE * lines)
            axes.imshow(picture, extent=extent)
            text = "\n".join(shortened(drawable(line, "class"), 24) for line in captions[index].split("\n"))
            colour = RED if marked is not None and marked[index] else "black"
            middle, top = (extent[0] + extent[1]) / 2, extent[3] - 3
            axes.text(middle, top, text, ha="center", va="bottom", fontsize=7.5, color=colour)
        axes.set_xlim(0, columns * CELL)
        axes.set_ylim(rows * height, 0)
    return count


def _centred(picture: np.ndarray, left: float, top: float) -> tuple[float, float, float, float]:
    """Left, right, bottom and top of a picture that fills a cell, but for a margin, as far as its shape lets it."""
    height, width = picture.shape[:2]
    scale = (CELL - 8) / max(height, width)
    x, y = left + (CELL - width * scale) / 2, top + (CELL - height * scale) / 2
    return x, x + width * scale, y + height * scale, y


def to_pixels(images: np.ndarray, mean: Sequence[float], std: Sequence[float], scale: float = 1 / 255) -> np.ndarray:
    """Undoes the normalisation of network inputs.

    Args:
        images: (N, 3, H, W).
        mean: see `Preprocessing`.
        std: see `Preprocessing`.
        scale: see `Preprocessing`.

    Returns:
        (N, H, W, 3) uint8.
    """
    values = images.transpose(0, 2, 3, 1).astype(np.float64)
    levels = (values * np.asarray(std) + np.asarray(mean)) / scale
    return np.clip(np.rint(levels), 0, 255).astype(np.uint8)
