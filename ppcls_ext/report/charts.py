"""Charts: the curves of a training, the images of each class, and accuracy against latency."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Optional

import numpy as np

from ppcls_ext.report.figures import BLUE, GREY, ORANGE, RED, class_label, class_labels, figure, text_width

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Slowest to fastest, below which latencies need no logarithms.
NARROW = 4
#: px, of a name in bench.png: from its neighbours, and its height.
GAP, LABEL = 16, 13
#: The rows of metrics.csv.
Rows = Sequence[Mapping[str, Optional[float]]]
#: Up to this number of classes, their names are written beside the bars.
NAMED = 60
#: Beyond it, this many of the largest and of the smallest classes are named, in labels of that width, px.
EXTREMES, EXTREME_WIDTH = 5, 120
#: The largest class has so many times the images of the middle one where counts are drawn by their logarithms.
MUCH = 10
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
        axes.set_title(f"{axes.get_title()}\nbest {_words(decides)} {value:.4f} in epoch {best:.0f}")


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
        extremes = "" if named else _extremes(counts, names)
        axes, beside = drawn.subplots(1, 2, width_ratios=(4, 1)) if extremes else (drawn.subplots(), None)
        for index, ((name, values), colour) in enumerate(zip(counts.items(), (BLUE, ORANGE, GREY))):
            total = values.sum() if images is None else images[name]
            few, many = values.min(), values.max()
            words = f"{name}: {total} images, {few if few == many else f'{few} to {many}'} a class"
            if named:
                share = 0.8 / len(counts)
                bars = axes.barh(np.arange(classes) + index * share, values, share, color=colour, label=words)
                axes.bar_label(bars, padding=2, fontsize=7)
            else:
                # a later line on an earlier one covers it in part only
                line = axes.plot(np.arange(1, classes + 1), np.sort(values)[::-1], color=colour, label=words)[0]
                line.set(linewidth=1.5 if index else 4, alpha=1 if index else 0.6)
        drawn.legend(frameon=False, loc="outside lower center", ncols=len(counts))
        axes.set_title(f"{classes} classes")
        if named:
            axes.set_yticks(np.arange(classes) + 0.4 - 0.4 / len(counts), class_labels(names, classes))
            axes.invert_yaxis()
            axes.set_xlabel("images")
        else:
            _scale_counts(axes, [int(count) for values in counts.values() for count in values])
        if beside is not None:
            beside.axis("off")
            beside.text(0, 1, extremes, va="top", fontsize=8)


def _scale_counts(axes: Axes, counts: Sequence[int]) -> None:
    """Sets the axes of sorted counts: with room below 0, by logarithms where the counts differ much."""
    axes.set_xlabel("classes, the largest of each list first")
    axes.set_ylabel("images")
    axes.set_xlim(0.5, None)
    axes.margins(x=0.01)
    axes.grid(alpha=0.25)
    top = max(counts)
    if top > MUCH * max(np.median(counts), 1):
        axes.set_yscale("symlog", linthresh=1, linscale=0.3)
        axes.set_ylim(-0.15, 1.6 * top)
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.set_ylabel("images, logarithmic")
    else:
        axes.set_ylim(-0.02 * max(top, 1), 1.08 * max(top, 1))


def _extremes(counts: Mapping[str, np.ndarray], names: Sequence[str] | None) -> str:
    """Returns lines that name the largest and the smallest classes of the first list."""
    name, values = next(iter(counts.items()))
    order = np.argsort(-values, kind="stable")
    if values[order[0]] == values[order[-1]]:
        return ""
    lines = []
    for what, chosen in (("largest", order[:EXTREMES]), ("smallest", order[::-1][:EXTREMES])):
        labels = [class_label(names, int(index), EXTREME_WIDTH, 8) for index in chosen]
        lines += [f"the {what} of {name}:", *(f"{count}  {label}" for count, label in zip(values[chosen], labels)), ""]
    return "\n".join(lines)


def drawn_latencies(rows: Sequence[Mapping[str, Any]], published: Mapping[str, tuple[float, int]]) -> list:
    """Returns the measurements of a model with a published accuracy, at its image size, with the fewest threads.

    Args:
        rows: the rows of bench.csv.
        published: top-1 on ImageNet, %, and the side of its images, px, by model.
    """
    fitting = [row for row in rows if row["model"] in published and row["px"] == published[row["model"]][1]]
    threads = min((row["threads"] for row in fitting), default=0)
    return [row for row in fitting if row["threads"] == threads]


def draw_latency(
    rows: Sequence[Mapping[str, Any]],
    published: Mapping[str, tuple[float, int]],
    about: str,
    path: str | os.PathLike,
) -> None:
    """Draws bench.png: accuracy against latency, a line per model from form to form and runtime to runtime.

    Args:
        rows: at least one of `drawn_latencies`.
        published: top-1 on ImageNet, %, and the side of its images, px, by model; int8 is drawn at its fp32 model's
            accuracy.
        about: the machine of the measurements.
        path: the PNG file.
    """
    models = {model: published[model] for model in dict.fromkeys(row["model"] for row in rows)}
    sizes = [px for _, px in models.values()]
    usual = max(sizes, key=sizes.count)
    low, high = (of(row["median"] for row in rows) for of in (min, max))
    is_log = high > NARROW * low
    with figure(path, 900, 520) as drawn:
        axes = drawn.subplots()
        for form, runtime in dict.fromkeys((row["form"], row["runtime"]) for row in rows):
            chosen = [row for row in rows if (row["form"], row["runtime"]) == (form, runtime)]
            axes.plot(
                [row["median"] for row in chosen],
                [models[row["model"]][0] for row in chosen],
                RUNTIME_MARKERS.get(runtime, "o"),
                color=FORM_COLOURS.get(form, GREY),
                label=f"{form}, {runtime}",
            )
        # beside the axes and in a frame, where no entry is taken for a measurement
        drawn.legend(loc="outside right upper", title="form, runtime", edgecolor="#dddddd")
        if is_log:
            axes.set_xscale("log")
            axes.xaxis.set_minor_formatter(lambda value, _: f"{value:g}" if str(f"{value:.0e}")[0] in "25" else "")
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        threads = rows[0]["threads"]
        shape = f"{usual} × {usual} px{'' if len(set(sizes)) == 1 else ' (or as named)'}"
        scale = ", logarithmic" if is_log else ""
        axes.set_xlabel(f"ms per image of {shape}, {threads} thread{'s' * (threads > 1)}{scale} ({about})")
        axes.set_ylabel("published top-1 on ImageNet, fp32 (%)")
        lowest, highest = (of(top1 for top1, _ in models.values()) for of in (min, max))
        axes.set_ylim(lowest - 1, highest + 1)
        axes.grid(alpha=0.25)
        ends = []
        for model, (top1, px) in models.items():
            points = sorted(row["median"] for row in rows if row["model"] == model)
            axes.plot(points, [top1] * len(points), color=GREY, linewidth=0.8, zorder=1)
            ends.append((model if px == usual else f"{model}, {px} px", points[-1], top1))
        _name_ends(drawn, axes, ends, low)


def _name_ends(drawn: Figure, axes: Axes, ends: Sequence[tuple[str, float, float]], low: float) -> None:
    """Writes names to the right of their points, within the axes, and none over another.

    Args:
        drawn: the figure, in which all else is drawn.
        axes: whose x-axis may be logarithmic.
        ends: name, x and y of each.
        low: the least x.
    """
    from matplotlib.patheffects import withStroke

    drawn.draw_without_rendering()  # which lays it out: the axes' width is known
    wide, high = axes.get_window_extent().width, axes.get_window_extent().height
    to, back = (math.log, math.exp) if axes.get_xscale() == "log" else (float, float)
    room = max((to(x) - to(low)) / (wide - 24 - text_width(name) - GAP) for name, x, _ in ends)  # of the axis, per px
    room = max(room, abs(to(low)) * 1e-3 / wide, 1e-9)
    axes.set_xlim(back(to(low) - 24 * room), back(to(low) + (wide - 24) * room))
    bottom, top = axes.get_ylim()
    outline = withStroke(linewidth=3, foreground="white")  # over the lines, below the points
    placed: list[tuple[float, float, float]] = []  # left, right and y of the names so far, px
    for name, x, y in sorted(ends, key=lambda end: -end[2]):
        left, height = 24 + (to(x) - to(low)) / room + 8, (y - bottom) / (top - bottom) * high
        right, middle = left + text_width(name), height
        for others_left, others_right, other in placed:  # from the top
            if left < others_right and others_left < right:
                middle = min(middle, other - LABEL)
        placed.append((left, right, middle))
        note = axes.annotate(name, (x, y), xytext=(8, middle - height), textcoords="offset pixels", va="center")
        note.set(zorder=1.5, path_effects=[outline])
