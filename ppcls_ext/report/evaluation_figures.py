"""The figures of an evaluation: confusion matrix, and how far confidence can be believed."""

from __future__ import annotations

import os

import numpy as np

from ppcls_ext.report.class_counts import class_labels
from ppcls_ext.report.evaluation import Evaluation, confusion_matrix, reliability
from ppcls_ext.report.figures import BLUE, GREY, ORANGE, figure

#: Up to so many classes, the classes are named; up to so many, the cells hold their counts.
NAMED, COUNTED = 60, 20


def draw_confusion(evaluation: Evaluation, path: str | os.PathLike) -> None:
    """Draws the confusion matrix, each row as shares of its class; from 2 to 1000 classes.

    A cell of a large matrix is less than a pixel: with more than `NAMED` classes the mistakes are drawn as dots whose
    size follows the share.
    """
    matrix, classes = confusion_matrix(evaluation), evaluation.classes
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    side = 420 + (22 if classes <= COUNTED else 13) * min(classes, NAMED) if classes <= NAMED else 900
    with figure(path, side, side) as drawn:
        axes = drawn.subplots()
        if classes <= NAMED:
            image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
            labels = class_labels(evaluation.names, classes, length=18)
            axes.set_xticks(range(classes), labels, rotation=90)
            axes.set_yticks(range(classes), labels)
            axes.tick_params(labelsize=8 if classes <= COUNTED else 6)
            drawn.colorbar(image, ax=axes, shrink=0.6, label="share of the true class")
            for row, column in np.argwhere(matrix) if classes <= COUNTED else ():
                dark = shares[row, column] > 0.5
                text = str(matrix[row, column])
                axes.text(column, row, text, ha="center", va="center", fontsize=7, color="white" if dark else "black")
        else:
            right, wrong = np.diag(shares), shares - np.diag(np.diag(shares))
            rows, columns = np.nonzero(wrong)
            sizes = 2 + 40 * wrong[rows, columns]
            axes.scatter(
                np.arange(classes), np.arange(classes), s=2 + 6 * right, color=BLUE, linewidths=0, label="right"
            )
            axes.scatter(columns, rows, s=sizes, color=ORANGE, linewidths=0, alpha=0.7, label="wrong, larger: oftener")
            axes.set_xlim(-1, classes)
            axes.set_ylim(classes, -1)
            axes.set_aspect("equal")
            axes.legend(frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.06), ncols=2)
        axes.set_xlabel("predicted class")
        axes.set_ylabel("true class")
        axes.set_title(f"{len(evaluation.labels)} pictures, top-1 {evaluation.accuracy():.4f}")


def draw_reliability(evaluation: Evaluation, path: str | os.PathLike) -> None:
    """Draws accuracy over confidence, and how many pictures have which confidence."""
    curve = reliability(evaluation)
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
        below.set_ylabel("pictures")
        below.set_xlabel("confidence")
        below.set_xlim(0, 1)
