"""The report of an evaluation: figures, tables and one page, in a folder."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from ppcls_ext.data.image_files import decode, read_image
from ppcls_ext.errors import PpclsExtError
from ppcls_ext.report.evaluation import Evaluation, confused_pairs, per_class, reliability, worst_mistakes
from ppcls_ext.report.evaluation_figures import draw_confusion, draw_reliability
from ppcls_ext.report.metrics_file import write_table
from ppcls_ext.report.page import Page
from ppcls_ext.report.sheets import draw_sheet

#: Mistakes on their sheet.
MISTAKES = 40
SIDE = 200  # px, of a picture on a sheet


def write_evaluation_report(
    evaluation: Evaluation,
    folder: str | os.PathLike,
    title: str,
    settings: str,
    figures: Mapping[str, Path] | None = None,
) -> Path:
    """Writes confusion.png, reliability.png, mistakes.png, per_class.csv, confused_pairs.csv and report.html.

    Args:
        evaluation: what the network answers.
        folder: to write to.
        title: of the page.
        settings: of the run, as text.
        figures: heading → PNG file of further figures for the page, such as the training's curves.

    Returns:
        The page.
    """
    folder = Path(folder)
    classes, pairs, curve = per_class(evaluation), confused_pairs(evaluation), reliability(evaluation)
    summary = {
        "pictures": len(evaluation.labels),
        "classes": evaluation.classes,
        "top-1": f"{evaluation.accuracy():.4f}",
        "top-5": f"{evaluation.accuracy(5):.4f}",
        "expected calibration error": f"{curve.error:.4f}",
    }
    draw_confusion(evaluation, folder / "confusion.png")
    draw_reliability(evaluation, folder / "reliability.png")
    write_table(folder / "per_class.csv", list(classes[0]), classes)
    write_table(folder / "confused_pairs.csv", ("true", "predicted", "pictures", "share"), pairs)
    page = Page(title, summary)
    for heading, path in (figures or {}).items():
        if path.is_file():
            page.add_image(heading, path)
    page.add_image("Confusion matrix", folder / "confusion.png")
    page.add_table("Most confused pairs", pairs)
    if _draw_mistakes(evaluation, folder / "mistakes.png"):
        page.add_image("Most confident mistakes", folder / "mistakes.png")
    page.add_image("How far confidence can be believed", folder / "reliability.png")
    page.add_table("Classes", classes)
    page.add_text("Settings", settings)
    page.write(folder / "report.html")
    return folder / "report.html"


def _draw_mistakes(evaluation: Evaluation, path: Path) -> bool:
    pictures, captions = [], []
    for index in worst_mistakes(evaluation, MISTAKES):
        true, predicted = (evaluation.name(int(row[index])) for row in (evaluation.labels, evaluation.predicted))
        pictures.append(_small(evaluation.paths[index]))
        captions.append(f"is {true}\ntaken for {predicted}\n{evaluation.confidence[index]:.1%}")
    if not pictures:
        path.unlink(missing_ok=True)  # an older one would not belong here
        return False
    draw_sheet(pictures, captions, f"the {len(pictures)} most confident mistakes", path)
    return True


def _small(path: str) -> np.ndarray:
    try:
        image = Image.fromarray(decode(read_image(path)))
    except (OSError, PpclsExtError):  # the network read it a moment ago
        return np.full((SIDE, SIDE, 3), 200, np.uint8)
    image.thumbnail((SIDE, SIDE))
    return np.asarray(image)
