"""Charts: the curves of a training, the images of each class, and accuracy against latency."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Optional

import numpy as np

from ppcls_ext.report.figures import BLUE, GREY, ORANGE, RED, class_labels, figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: The rows of metrics.csv.
Rows = Sequence[Mapping[str, Optional[float]]]
#: Up to this number of classes, their names are written beside the bars.
NAMED = 60
FORM_COLOURS = {"fused": BLUE, "int8": ORANGE, "unfused": GREY, "fp16": RED}
RUNTIME_MARKERS = {"onnxruntime": "o", "openvino": "s", "openvino-bf16": "^", "ncnn": "D", "tflite": "v"}


def draw_curves(rows: Rows, path: str | os.PathLike, decides: str = "top1", greater: bool = True) -> None:
    """Draws curves.png: loss, accuracy or the metric that decides, and learning rate over the epochs.

    Args:
        rows: at least one row of metrics.csv.
        path: the PNG file.
        decides: the metric by which the best epoch, which is marked, is chosen.
        greater: whether more of it is better.
    """
    of_labels = [name for name in ("eval_mAP", "eval_f1_micro", "eval_f1_macro") if any(name in row for row in rows)]
    is_accuracy = not of_labels and (decides == "loss" or decides.startswith("top"))
    shown = ("train_top", "eval_top") if is_accuracy else (f"train_{decides}", f"eval_{decides}")
    names = sorted({name for row in rows for name in row if name.startswith(shown) and name not in of_labels})
    with figure(path, 1200, 380) as drawn:
        loss, accuracy, rate = drawn.subplots(1, 3)
        for name, colour in (("train_loss", BLUE), ("eval_loss", ORANGE)):
            _line(loss, rows, name, colour)
        loss.set_title("loss")
        for name in names:
            first = not is_accuracy or name.endswith("top1")
            _line(accuracy, rows, name, ORANGE if name.startswith("eval") else BLUE, "-" if first else ":")
        for name, colour, style in zip(of_labels, (ORANGE, BLUE, GREY), ("-", ":", ":")):
            _line(accuracy, rows, name, colour, style)
        accuracy.set_title("several labels an image" if of_labels else "accuracy" if is_accuracy else decides)
        if is_accuracy or of_labels:
            accuracy.set_ylim(0, 1.02)
        _mark_best(loss if decides == "loss" else accuracy, rows, decides, greater)
        _line(rate, rows, "learning_rate", GREY)
        rate.set_title("learning rate")
        for axes in (loss, accuracy, rate):
            axes.set_xlabel("epoch")
            axes.xaxis.get_major_locator().set_params(integer=True)
            axes.grid(alpha=0.25)
            if axes.lines:
                axes.legend(frameon=False)


def _mark_best(axes: Axes, rows: Rows, decides: str, greater: bool) -> None:
    """Marks the first epoch that is the best, and names it in the title."""
    # where a resumed training has changed the metric, the best counts from there on
    counted = [row for row in rows if row.get(f"best_{decides}") is not None] or rows
    values = [(value, row["epoch"] or 0) for row in counted if (value := row.get(f"eval_{decides}")) is not None]
    if values:
        value, best = (max if greater else min)(values, key=lambda point: point[0])
        axes.plot([best], [value], "o", color=ORANGE)
        axes.set_title(f"{axes.get_title()}; best {_words(decides)} {value:.4f} in epoch {best:.0f}")


def _words(name: str) -> str:
    return name.replace("_", " ").replace("eval", "evaluation").replace("top", "top-")


def _line(axes: Axes, rows: Rows, name: str, colour: str, style: str = "-") -> None:
    points = [(row["epoch"], row[name]) for row in rows if row.get(name) is not None]
    if points:
        # markers, as a single point has no line
        size = 3 if len(points) < 30 else 0
        axes.plot(*zip(*points), style, color=colour, marker="o", markersize=size, label=_words(name))


def draw_class_counts(
    labels: Mapping[str, Sequence[int]],
    names: Sequence[str] | None,
    classes: int,
    path: str | os.PathLike,
    images: Mapping[str, int] | None = None,
) -> None:
    """Draws data.png: the number of images of each class in each list.

    The classes are named and in order of their index up to `NAMED` of them, and sorted by size beyond.

    Args:
        labels: the labels of each list, by the list's name; for an image of several classes, each of them.
        names: class names by index; None where there are none.
        classes: number of classes.
        path: the PNG file.
        images: the number of images of each list; that of the labels where None.
    """
    counts = {name: np.bincount(values, minlength=classes)[:classes] for name, values in labels.items()}
    named = classes <= NAMED
    height = max(240, 70 + 16 * classes * len(counts)) if named else 380
    with figure(path, 900, height) as drawn:
        axes = drawn.subplots()
        for index, ((name, values), colour) in enumerate(zip(counts.items(), (BLUE, ORANGE, GREY))):
            total = values.sum() if images is None else images[name]
            words = f"{name}: {total} images, {values.min()} to {values.max()} a class"
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
            axes.set_xlabel("images")
        else:
            axes.set_xlabel("classes, the largest first")
            axes.set_ylabel("images")
            axes.set_ylim(bottom=0)


def draw_latency(
    rows: Sequence[Mapping[str, Any]], published: Mapping[str, float], about: str, path: str | os.PathLike
) -> None:
    """Draws bench.png: accuracy against latency, a line per model from form to form and runtime to runtime.

    Only the measurements with the fewest threads are drawn, and only models with a published accuracy.

    Args:
        rows: the rows of bench.csv.
        published: top-1 on ImageNet by model, %; int8 is drawn at its fp32 model's accuracy.
        about: the machine of the measurements.
        path: the PNG file.
    """
    threads = min(row["threads"] for row in rows)
    shown = [row for row in rows if row["threads"] == threads and row["model"] in published]
    with figure(path, 900, 520) as drawn:
        axes = drawn.subplots()
        for model in dict.fromkeys(row["model"] for row in shown):
            points = sorted(row["median"] for row in shown if row["model"] == model)
            top1 = published[model]
            axes.plot(points, [top1] * len(points), color=GREY, linewidth=0.8, zorder=1)
            axes.annotate(model, (points[-1], top1), xytext=(8, -3), textcoords="offset points")
        for form, runtime in dict.fromkeys((row["form"], row["runtime"]) for row in shown):
            chosen = [row for row in shown if (row["form"], row["runtime"]) == (form, runtime)]
            axes.plot(
                [row["median"] for row in chosen],
                [published[row["model"]] for row in chosen],
                RUNTIME_MARKERS.get(runtime, "o"),
                color=FORM_COLOURS.get(form, GREY),
                label=f"{form}, {runtime}",
                zorder=2,
            )
        axes.set_xscale("log")
        axes.margins(x=0.18)
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.xaxis.set_minor_formatter(lambda value, _: f"{value:g}" if str(f"{value:.0e}")[0] in "25" else "")
        axes.set_xlabel(f"ms per image, {threads} thread{'s' * (threads > 1)}, logarithmic ({about})")
        axes.set_ylabel("published top-1 on ImageNet, fp32 (%)")
        axes.grid(alpha=0.25)
        axes.legend(frameon=False)
