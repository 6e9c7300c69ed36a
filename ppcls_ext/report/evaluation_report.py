"""The report of an evaluation: figures, tables and one page, in a folder."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ppcls_ext.data.image_files import decode, own_channels, read_image
from ppcls_ext.errors import PpclsExtError
from ppcls_ext.files import folder_at_once, require_own_folder
from ppcls_ext.progress import progress, ticks
from ppcls_ext.report.figures import BLUE, GREY, ORANGE, class_labels, figure
from ppcls_ext.report.image_figures import draw_sheet, shrunk
from ppcls_ext.report.page import Page
from ppcls_ext.report.predictions import (
    Predictions,
    confused_pairs,
    confusion_matrix,
    confusions,
    per_class,
    reliability,
    worst_mistakes,
)
from ppcls_ext.report.tables import write_table

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: The names of a report's files, of one label an image or several.
FILES = (
    r"(confusion|reliability|mistakes|average_precision)\.png|(per_class|confused_pairs)\.csv|report\.html|\..*\.tmp"
)
#: Up to this number of classes, a confusion matrix names the classes; up to the second, its cells hold their counts.
NAMED, COUNTED = 60, 20
#: Confused pairs that are drawn as dots; more of them would take minutes, and cover each other.
DOTS = 50_000
#: Mistakes on their sheet.
MISTAKES = 40
PARTS = 5  # of a report, as its progress counts them
MISTAKE_SIDE = 200  # px, longer side of an image on that sheet


def write_evaluation_report(
    predictions: Predictions,
    folder: str | os.PathLike,
    title: str,
    settings: str,
    figures: Mapping[str, Path] | None = None,
    facts: Mapping[str, object] | None = None,
) -> Path:
    """Writes confusion.png, reliability.png, mistakes.png, per_class.csv, confused_pairs.csv and report.html.

    They are one set: an earlier report in the folder is replaced at once.

    Args:
        predictions: the network's predictions for the evaluated images.
        folder: the folder to write to.
        title: title of the page.
        settings: the run's configuration, as text.
        figures: heading → PNG file of further figures for the page, such as the training's curves.
        facts: further rows of the page's summary: what was evaluated, or the metric that has chosen the epoch.

    Returns:
        The path of the page.

    Raises:
        PpclsExtError: the folder holds other files than a report's, or cannot be written.
    """
    with new_report(Path(folder)) as place:
        _write(predictions, place, title, settings, figures or {}, facts or {})
    return Path(folder) / "report.html"


@contextlib.contextmanager
def new_report(folder: Path) -> Iterator[Path]:
    """Yields a new folder for the files of a report, which takes the place of `folder` at once when they are written.

    Raises:
        PpclsExtError: `folder` holds other files than a report's, or cannot be written.
    """
    require_own_report(folder)
    with folder_at_once(folder, FILES) as place:
        yield place


def require_own_report(folder: Path) -> None:
    """Raises PpclsExtError if `folder` holds other files than a report's, which would be lost with it."""
    require_own_folder(folder, FILES, "report")


def _write(
    predictions: Predictions,
    folder: Path,
    title: str,
    settings: str,
    figures: Mapping[str, Path],
    facts: Mapping[str, object],
) -> None:
    classes, pairs, curve = per_class(predictions), confused_pairs(predictions), reliability(predictions)
    summary = {
        **facts,
        "pictures": len(predictions.labels),
        "classes": predictions.classes,
        "top-1": f"{predictions.accuracy():.4f}",
        "top-5": f"{predictions.accuracy(5):.4f}",
        "expected calibration error": f"{curve.error:.4f}",
        **(facts or {}),
    }
    page = Page(title, summary)
    for heading, path in figures.items():
        if path.is_file():
            page.add_image(heading, path)
    with progress("writing the report", "parts") as report:
        tick = ticks(report, PARTS)
        draw_confusion(predictions, folder / "confusion.png")
        tick()
        draw_reliability(predictions, folder / "reliability.png")
        tick()
        write_table(folder / "per_class.csv", list(classes[0]), classes)
        write_table(folder / "confused_pairs.csv", ("true", "predicted", "pictures", "share"), pairs)
        tick()
        page.add_image("Confusion matrix", folder / "confusion.png")
        page.add_table("Most confused pairs", pairs)
        if _draw_mistakes(predictions, folder / "mistakes.png"):
            page.add_image("Most confident mistakes", folder / "mistakes.png")
        tick()
        page.add_image("Calibration (expected calibration error)", folder / "reliability.png")
        page.add_table("Classes", classes)
        page.add_text("Settings", settings)
        page.write(folder / "report.html")
        tick()


def draw_confusion(predictions: Predictions, path: str | os.PathLike) -> None:
    """Draws the confusion matrix, each row as shares of its class.

    A cell of a large matrix is less than a pixel: with more than `NAMED` classes the mistakes are drawn as dots whose
    size follows the share.
    """
    classes = predictions.classes
    side = 420 + (22 if classes <= COUNTED else 13) * min(classes, NAMED) if classes <= NAMED else 900
    with figure(path, side, side) as drawn:
        axes = drawn.subplots()
        (_draw_cells if classes <= NAMED else _draw_dots)(predictions, drawn, axes)
        axes.set_xlabel("predicted class")
        axes.set_ylabel("true class")
        axes.set_title(f"{len(predictions.labels)} images, top-1 {predictions.accuracy():.4f}")


def _draw_cells(predictions: Predictions, drawn: Figure, axes: Axes) -> None:
    matrix, classes = confusion_matrix(predictions), predictions.classes
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    labels = class_labels(predictions.names, classes, length=18)
    axes.set_xticks(range(classes), labels, rotation=90)
    axes.set_yticks(range(classes), labels)
    axes.tick_params(labelsize=8 if classes <= COUNTED else 6)
    drawn.colorbar(image, ax=axes, shrink=0.6, label="share of the true class")
    for row, column in np.argwhere(matrix) if classes <= COUNTED else ():
        dark = shares[row, column] > 0.5
        text = str(matrix[row, column])
        axes.text(column, row, text, ha="center", va="center", fontsize=7, color="white" if dark else "black")


def _draw_dots(predictions: Predictions, drawn: Figure, axes: Axes) -> None:
    classes, found = predictions.classes, confusions(predictions)
    images = np.maximum(np.bincount(predictions.labels, minlength=classes), 1)
    wrong = np.bincount(found.true, found.counts, classes)
    right = np.where(np.bincount(predictions.labels, minlength=classes) > 0, 1 - wrong / images, 0)
    most = np.argsort(-found.counts, kind="stable")[:DOTS]
    rest = f", the {DOTS:,} most frequent pairs" if len(found.counts) > DOTS else ""
    rows, columns, shares = found.true[most], found.predicted[most], found.counts[most] / images[found.true[most]]
    places = np.arange(classes)
    axes.scatter(places, places, s=2 + 6 * right, color=BLUE, linewidths=0, label="right")
    label = f"wrong (area: share{rest})"
    axes.scatter(columns, rows, s=2 + 40 * shares, color=ORANGE, linewidths=0, alpha=0.7, label=label)
    axes.set_xlim(-1, classes)
    axes.set_ylim(classes, -1)
    axes.set_aspect("equal")
    axes.legend(frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.06), ncols=2)


def draw_reliability(predictions: Predictions, path: str | os.PathLike) -> None:
    """Draws the reliability diagram: accuracy over confidence, and the number of images in each bin."""
    curve = reliability(predictions)
    centres, width = (curve.edges[1:] + curve.edges[:-1]) / 2, 1 / len(curve.counts)
    with figure(path, 520, 560) as drawn:
        axes, below = drawn.subplots(2, 1, sharex=True, height_ratios=(3, 1))
        axes.plot((0, 1), (0, 1), "--", color=GREY, label="confidence = accuracy")
        axes.bar(centres, np.nan_to_num(curve.accuracy), width * 0.9, color=BLUE, alpha=0.8, label="accuracy")
        axes.plot(curve.confidence, curve.accuracy, "o-", color=ORANGE, markersize=3, label="at the mean confidence")
        axes.set_ylim(0, 1)
        axes.set_ylabel("accuracy")
        axes.set_title(f"expected calibration error {curve.error:.4f}")
        drawn.legend(frameon=False, loc="outside lower center", ncols=3, fontsize=8)
        below.bar(centres, curve.counts, width * 0.9, color=GREY)
        below.set_ylabel("images")
        below.set_xlabel("confidence")
        below.set_xlim(0, 1)


def _draw_mistakes(predictions: Predictions, path: Path) -> bool:
    images, captions = [], []
    for index in worst_mistakes(predictions, MISTAKES):
        true, predicted = (predictions.name(int(row[index])) for row in (predictions.labels, predictions.predicted))
        images.append(read_small(predictions.paths[index]))
        captions.append(f"is {true}\ntaken for {predicted}\n{predictions.confidence[index]:.1%}")
    if not images:
        return False
    draw_sheet(images, captions, f"the {len(images)} most confident mistakes", path)
    return True


def read_small(path: str) -> np.ndarray:
    """Reads an image for a sheet: (H, W, 3) uint8, grey where it can no longer be read."""
    try:
        data = read_image(path)
        return shrunk(decode(data, channels=own_channels(data)), MISTAKE_SIDE)
    except (OSError, PpclsExtError):  # the network read it a moment ago
        return np.full((MISTAKE_SIDE, MISTAKE_SIDE, 3), 200, np.uint8)
