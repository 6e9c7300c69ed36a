"""The report of an evaluation: figures, tables and one page, in a folder."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from ppcls_ext.data.image_files import decode, own_channels, read_image
from ppcls_ext.errors import PpclsExtError
from ppcls_ext.files import folder_at_once, require_own_folder
from ppcls_ext.progress import progress, ticks
from ppcls_ext.report.figures import (
    BAR,
    BLUE,
    GREY,
    ORANGE,
    class_labels,
    draw_bars,
    drawable,
    figure,
    fitted,
    place_axes,
    text_width,
)
from ppcls_ext.report.image_figures import Line, draw_sheet, shrunk
from ppcls_ext.report.page import begin_page
from ppcls_ext.report.predictions import (
    Predictions,
    answered,
    confused_pairs,
    confusion_matrix,
    confusions,
    macro_f1,
    per_class,
    reliability,
    worst_mistakes,
)
from ppcls_ext.report.tables import write_table

#: The names of a report's files, of one label an image or several.
FILES = (
    r"(confusion|reliability|mistakes|average_precision)\.png|(per_class|confused_pairs)\.csv|report\.html|\..*\.tmp"
)
#: Up to this number of classes, the confusion matrix is drawn; of more classes, the most confused pairs.
MATRIX, PAIRS = 30, 20
CELL = 28  # px, of that matrix: a count of five digits fits
PAIRS_WIDTH, ARROW = 900, " → "  # px, and what stands between the two names of a pair
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
    classes, pairs, curve = per_class(predictions), confused_pairs(predictions, PAIRS), reliability(predictions)
    measured: dict[str, object] = {
        "images": len(predictions.labels),
        "classes": predictions.classes,
        "top-1": predictions.accuracy(),
        **({"top-5": predictions.accuracy(5)} if predictions.classes > 5 else {}),
        "macro F1": macro_f1(predictions),
        "expected calibration error": curve.error,
    }
    with new_report(Path(folder)) as place, progress("writing the report", "parts") as report:
        tick = ticks(report, PARTS)
        page = begin_page(title, facts or {}, measured, figures or {})
        draw_confusion(predictions, place / "confusion.png")
        tick()
        draw_reliability(predictions, place / "reliability.png")
        tick()
        write_table(place / "per_class.csv", list(classes[0]), classes)
        write_table(place / "confused_pairs.csv", ("true", "predicted", "pictures", "share"), pairs)
        tick()
        heading = "Confusion matrix" if predictions.classes <= MATRIX else "Most confused pairs, drawn"
        page.add_image(heading, place / "confusion.png")
        page.add_table("Most confused pairs", pairs)
        if _draw_mistakes(predictions, place / "mistakes.png"):
            page.add_image("Most confident mistakes", place / "mistakes.png")
        tick()
        page.add_image("Calibration (expected calibration error)", place / "reliability.png")
        page.add_table("Answers from a probability on", [point._asdict() for point in answered(predictions)])
        page.add_table("Classes", classes)
        page.add_text("Settings", settings)
        page.write(place / "report.html")
        tick()
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


def draw_confusion(predictions: Predictions, path: str | os.PathLike) -> None:
    """Draws the confusion matrix, as shares of the true class; of more than `MATRIX` classes, the confused pairs."""
    (_draw_matrix if predictions.classes <= MATRIX else _draw_pairs)(predictions, path)


def _draw_matrix(predictions: Predictions, path: str | os.PathLike) -> None:
    matrix, classes = confusion_matrix(predictions), predictions.classes
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    labels = class_labels(predictions.names, classes, 120, 8)
    side, names = max(CELL * classes, 300), max(text_width(label, 8) for label in labels)
    with figure(path, side + names + 140, side + names + 80) as drawn:
        axes = drawn.subplots()
        image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        axes.set_xticks(range(classes), labels, rotation=90)
        axes.set_yticks(range(classes), labels)
        axes.tick_params(labelsize=8)
        axes.set_xlabel("predicted class")
        axes.set_ylabel("true class")
        axes.set_title(_in_words(predictions))
        drawn.colorbar(image, ax=axes, fraction=0.03, label="share of the true class")
        drawn.draw_without_rendering()
        cell = axes.get_window_extent().width / classes
        size = next((size for size in (8, 7, 6) if text_width(str(matrix.max()), size) < cell - 2), 5)
        for row, column in np.argwhere(matrix):
            colour = "white" if shares[row, column] > 0.5 else "black"
            text = str(matrix[row, column])
            axes.text(column, row, text, ha="center", va="center", fontsize=size, color=colour)


def _draw_pairs(predictions: Predictions, path: str | os.PathLike) -> None:
    pairs, found = confused_pairs(predictions, PAIRS), confusions(predictions)
    counts = [pair["pictures"] for pair in pairs]
    numbers = [f"{count} image{'s' * (count > 1)}, {pair['share']:.1%}" for count, pair in zip(counts, pairs)]
    room = (PAIRS_WIDTH - 40 - max(map(text_width, numbers), default=0) - text_width(ARROW) - 12) / 2
    names = [
        ARROW.join(fitted(_drawn_name(predictions, classes[pair]), room) for classes in (found.true, found.predicted))
        for pair in np.argsort(-found.counts, kind="stable")[:PAIRS]
    ]
    with figure(path, PAIRS_WIDTH, 110 + BAR * max(len(pairs), 1)) as drawn:
        axes = place_axes(drawn, 20, 50, PAIRS_WIDTH - 40, BAR * max(len(pairs), 1))
        draw_bars(axes, names, numbers, counts, PAIRS_WIDTH - 40)
        axes.set_xlim(0, max(counts, default=1))
        axes.locator_params(axis="x", integer=True)
        axes.set_xlabel("images of the true class that are taken for the predicted one, and their share of its images")
        what = f"the {len(pairs)} most confused pairs (true{ARROW}predicted)" if pairs else "no mistakes"
        axes.set_title(f"{_in_words(predictions)}: {what}")


def _drawn_name(predictions: Predictions, index: int) -> str:
    return drawable(predictions.name(int(index)), f"class {index}")


def _in_words(predictions: Predictions) -> str:
    return f"{len(predictions.labels)} images, {predictions.classes} classes, top-1 {predictions.accuracy():.4f}"


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
    images: list[np.ndarray] = []
    captions: list[list[Line]] = []
    for index in worst_mistakes(predictions, MISTAKES):
        true, predicted = (_drawn_name(predictions, row[index]) for row in (predictions.labels, predictions.predicted))
        images.append(read_small(predictions.paths[index]))
        captions.append([f"is {true}", f"taken for {predicted}", f"{predictions.confidence[index]:.1%}"])
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
