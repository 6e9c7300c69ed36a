"""curves.png: how losses, accuracies and the learning rate went."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

from ppcls_ext.report.figures import BLUE, GREY, ORANGE, figure

Rows = Sequence[Mapping[str, "float | None"]]


def draw_curves(rows: Rows, path: str | os.PathLike) -> None:
    """Draws three panels over the epochs: loss, accuracy, learning rate.

    Args:
        rows: of metrics.csv, at least one.
        path: the PNG.
    """
    accuracies = sorted({name for row in rows for name in row if name.startswith(("train_top", "eval_top"))})
    with figure(path, 1200, 380) as drawn:
        loss, accuracy, rate = drawn.subplots(1, 3)
        for name, colour in (("train_loss", BLUE), ("eval_loss", ORANGE)):
            _line(loss, rows, name, colour)
        loss.set_title("loss")
        for name in accuracies:
            first = name.endswith("1")
            _line(accuracy, rows, name, ORANGE if name.startswith("eval") else BLUE, "-" if first else ":")
        best = max((row for row in rows if row.get("eval_top1") is not None), key=_top1, default=None)
        if best is not None:
            accuracy.plot(best["epoch"], best["eval_top1"], "o", color=ORANGE)
            accuracy.set_title(f"accuracy; best top-1 {best['eval_top1']:.4f} in epoch {best['epoch']:.0f}")
        else:
            accuracy.set_title("accuracy")
        accuracy.set_ylim(0, 1.02)
        _line(rate, rows, "learning_rate", GREY)
        rate.set_title("learning rate")
        for axes in (loss, accuracy, rate):
            axes.set_xlabel("epoch")
            axes.xaxis.get_major_locator().set_params(integer=True)
            axes.grid(alpha=0.25)
            if axes.lines:
                axes.legend(frameon=False)


def _top1(row: Mapping[str, float | None]) -> float:
    return row["eval_top1"]


def _line(axes: object, rows: Rows, name: str, colour: str, style: str = "-") -> None:
    points = [(row["epoch"], row[name]) for row in rows if row.get(name) is not None]
    if points:
        # a single point has no line
        axes.plot(
            *zip(*points), style, color=colour, marker="o", markersize=3 if len(points) < 30 else 0, label=_words(name)
        )


def _words(name: str) -> str:
    return name.replace("_", " ").replace("eval", "evaluation").replace("top", "top-")
