"""A picture with its most probable classes."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np

from ppcls_ext.report.figures import BLUE, figure
from ppcls_ext.report.fonts import drawable, shortened


def draw_prediction(
    picture: np.ndarray, names: Sequence[str], scores: Sequence[float], title: str, path: str | os.PathLike
) -> None:
    """Draws the picture and, beside it, a bar for each class.

    Args:
        picture: (H, W, 3) uint8.
        names: of the classes, best first.
        scores: their probabilities.
        title: such as the file's name.
        path: the PNG.
    """
    count = len(names)
    with figure(path, 760, max(320, 90 + 34 * count)) as drawn:
        left, right = drawn.subplots(1, 2, width_ratios=(1, 1.2))
        left.imshow(picture)
        left.axis("off")
        left.set_title(shortened(drawable(title, "picture"), 48), fontsize=9)
        places = np.arange(count)
        right.barh(places, scores, color=BLUE, height=0.5)
        for place, name, score in zip(places, names, scores):
            words = f"{shortened(drawable(name, 'class'), 40)}  {score:.1%}"
            right.text(0, place - 0.32, words, va="bottom", fontsize=9)
        right.set_xlim(0, 1)
        right.set_ylim(count - 0.4, -0.9)
        right.set_yticks([])
        right.set_xlabel("probability")
        right.spines["left"].set_visible(False)


def caption(names: Sequence[str], scores: Sequence[float], title: str) -> str:
    """The caption of a prediction on a sheet: the file's name, the best class and its probability."""
    return f"{title}\n{names[0]} {scores[0]:.1%}" if len(names) else title
