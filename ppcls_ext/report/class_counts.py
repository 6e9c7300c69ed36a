"""data.png: how many pictures each class has in the lists."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

import numpy as np

from ppcls_ext.report.figures import BLUE, GREY, ORANGE, figure
from ppcls_ext.report.fonts import drawable, shortened

#: Classes whose names are written beside the bars.
NAMED = 60


def draw_class_counts(
    labels: Mapping[str, Sequence[int]], names: Sequence[str] | None, classes: int, path: str | os.PathLike
) -> None:
    """Draws a bar per class and list: named and sorted by class up to `NAMED` classes, sorted by size beyond.

    Args:
        labels: of each list's pictures, by the list's name.
        names: of the classes; None where they have none.
        classes: their number.
        path: the PNG.
    """
    counts = {name: np.bincount(values, minlength=classes)[:classes] for name, values in labels.items()}
    named = classes <= NAMED
    height = max(240, 70 + 16 * classes * len(counts)) if named else 380
    with figure(path, 900, height) as drawn:
        axes = drawn.subplots()
        for index, ((name, values), colour) in enumerate(zip(counts.items(), (BLUE, ORANGE, GREY))):
            words = f"{name}: {values.sum()} pictures, {values.min()} to {values.max()} a class"
            if named:
                share = 0.8 / len(counts)
                bars = axes.barh(np.arange(classes) + index * share, values, share, color=colour, label=words)
                axes.bar_label(bars, padding=2, fontsize=7)
            else:
                axes.plot(np.sort(values)[::-1], color=colour, label=words)
        drawn.legend(frameon=False, loc="outside lower center", ncols=len(counts))
        axes.set_title(f"{classes} classes")
        if named:
            axes.set_yticks(np.arange(classes) + 0.4 - 0.4 / len(counts), class_labels(names, classes))
            axes.invert_yaxis()
            axes.set_xlabel("pictures")
        else:
            axes.set_xlabel("classes, the largest first")
            axes.set_ylabel("pictures")
            axes.set_ylim(bottom=0)


def class_labels(names: Sequence[str] | None, classes: int, length: int = 24) -> list[str]:
    """What the classes are called in a figure: their names as far as they can be drawn, else "class 3"."""
    known = list(names or ())[:classes]
    known += [""] * (classes - len(known))
    return [
        shortened(drawable(name, f"class {i}"), length) if name.strip() else f"class {i}"
        for i, name in enumerate(known)
    ]
