"""The report of an evaluation with several labels an image: figures, a table and one page, in a folder."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ppcls_ext.progress import progress, ticks
from ppcls_ext.report.evaluation_report import MISTAKES, new_report, read_small
from ppcls_ext.report.figures import BLUE, ORANGE, class_labels, drawable, figure
from ppcls_ext.report.image_figures import Line, draw_sheet
from ppcls_ext.report.label_scores import LabelScores, measures, per_class, worst_labels
from ppcls_ext.report.page import Rows, begin_page
from ppcls_ext.report.tables import write_table

#: Up to this number of classes, each has a bar with its name.
NAMED = 100
PARTS = 3  # of a report, as its progress counts them


def write_label_report(
    found: LabelScores,
    folder: str | os.PathLike,
    title: str,
    settings: str,
    figures: Mapping[str, Path] | None = None,
    facts: Mapping[str, object] | None = None,
) -> Path:
    """Writes average_precision.png, mistakes.png, per_class.csv and report.html.

    They are one set: an earlier report in the folder is replaced at once.

    Args:
        found: the network's scores for the evaluated images.
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
    rows, values = per_class(found), measures(found)
    names = {"f1_micro": "micro F1", "f1_macro": "macro F1"}
    named = {names.get(name, name.replace("_", " ")): value for name, value in values.items()}
    measured = {"images": len(found.labels), "classes": found.classes, **named}
    with new_report(Path(folder)) as place, progress("writing the report", "parts") as report:
        tick = ticks(report, PARTS)
        page = begin_page(title, facts or {}, measured, figures or {})
        draw_average_precision(found, rows, values["mAP"], place / "average_precision.png")
        tick()
        page.add_image("Average precision", place / "average_precision.png")
        write_table(place / "per_class.csv", list(rows[0]), rows)
        page.add_table("Classes, at their thresholds", rows)
        if _draw_mistakes(found, place / "mistakes.png"):
            page.add_image("Most confidently wrong", place / "mistakes.png")
        tick()
        page.add_text("Settings", settings)
        page.write(place / "report.html")
        tick()
    return Path(folder) / "report.html"


def draw_average_precision(found: LabelScores, rows: Rows, mean: float, path: str | os.PathLike) -> None:
    """Draws the average precision of each class, and the share of the images that show it, which chance would give.

    Args:
        found: the scores.
        rows: of `per_class`.
        mean: mAP.
        path: the PNG file.
    """
    values = np.array([np.nan if row["average_precision"] is None else row["average_precision"] for row in rows], float)
    chance = found.labels.mean(axis=0)
    named, places = found.classes <= NAMED, np.arange(found.classes)
    with figure(path, 900, max(240, 110 + 18 * found.classes) if named else 380) as drawn:
        axes = drawn.subplots()
        if named:
            bars = axes.barh(places, np.nan_to_num(values), 0.7, color=BLUE, label="average precision")
            axes.bar_label(bars, ["no image" if np.isnan(value) else f"{value:.3f}" for value in values], padding=2)
            axes.plot(chance, places, "|", color=ORANGE, markersize=10, label="share of images, as by chance")
            axes.set_yticks(places, class_labels(found.names, found.classes))
            axes.set_ylim(found.classes - 0.4, -0.6)
            axes.set_xlim(0, 1.08)
            axes.set_xlabel("average precision")
        else:
            axes.plot(np.sort(values[~np.isnan(values)])[::-1], color=BLUE, label="average precision")
            axes.set_ylim(0, 1.02)
            axes.set_xlabel("classes, the best first")
            axes.set_ylabel("average precision")
        axes.set_title(f"{len(found.labels)} images, {found.classes} classes, mAP {mean:.4f}")
        drawn.legend(frameon=False, loc="outside lower center", ncols=2, fontsize=8)


def _draw_mistakes(found: LabelScores, path: Path) -> bool:
    images: list[np.ndarray] = []
    captions: list[list[Line]] = []
    for image, label in worst_labels(found, MISTAKES):
        images.append(read_small(found.paths[image]))
        says = "shows" if found.labels[image, label] else "does not show"
        score, threshold = found.scores[image, label], found.thresholds[label]
        name = drawable(found.name(label), f"class {label}")
        captions.append([says, name, f"{score:.1%}, threshold {threshold:.1%}"])
    if not images:
        return False
    draw_sheet(images, captions, f"the {len(images)} most confidently wrong labels", path)
    return True
