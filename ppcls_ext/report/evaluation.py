"""What an evaluation tells about each class and each picture."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ppcls_ext.errors import PpclsExtError


class Evaluation(NamedTuple):
    """The answers to all pictures of a list.

    Attributes:
        paths: (N,) the pictures' files.
        labels: (N,) true classes.
        probabilities: (N, classes).
        names: of the classes; None where they have none.
    """

    paths: Sequence[str]
    labels: np.ndarray
    probabilities: np.ndarray
    names: Sequence[str] | None = None

    @property
    def classes(self) -> int:
        """Their number."""
        return self.probabilities.shape[1]

    @property
    def predicted(self) -> np.ndarray:
        """(N,) the most probable classes."""
        return self.probabilities.argmax(axis=1)

    @property
    def confidence(self) -> np.ndarray:
        """(N,) the probabilities of the most probable classes."""
        return self.probabilities.max(axis=1)

    def accuracy(self, k: int = 1) -> float:
        """The share of pictures whose true class is among the k most probable."""
        best = np.argsort(-self.probabilities, axis=1, kind="stable")[:, :k]
        return float((best == self.labels[:, None]).any(axis=1).mean())

    def name(self, index: int) -> str:
        """What class `index` is called."""
        named = self.names is not None and index < len(self.names) and self.names[index].strip()
        return self.names[index] if named else f"class {index}"

    def check(self) -> Evaluation:
        """Returns itself.

        Raises:
            PpclsExtError: there are no pictures, or numbers that are no probabilities and classes.
        """
        if not len(self.labels) or len(self.labels) != len(self.probabilities) or len(self.paths) != len(self.labels):
            raise PpclsExtError(
                f"a report needs pictures with one label and one answer each: got {len(self.paths)} pictures, "
                f"{len(self.labels)} labels, {len(self.probabilities)} answers"
            )
        if not np.isfinite(self.probabilities).all():
            raise PpclsExtError("the answers are not finite: the weights are damaged, or training diverged")
        return self


def confusion_matrix(evaluation: Evaluation) -> np.ndarray:
    """(classes, classes) counts: row true, column predicted."""
    matrix = np.zeros((evaluation.classes, evaluation.classes), np.int64)
    np.add.at(matrix, (evaluation.labels, evaluation.predicted), 1)
    return matrix


def per_class(evaluation: Evaluation) -> list[dict[str, object]]:
    """A row per class: pictures, accuracy (recall), precision, and what it is most often taken for."""
    matrix = confusion_matrix(evaluation)
    rows = []
    for index in range(evaluation.classes):
        pictures, taken = int(matrix[index].sum()), int(matrix[:, index].sum())
        wrong = matrix[index].copy()
        wrong[index] = 0
        rows.append(
            {
                "class": index,
                "name": evaluation.name(index),
                "pictures": pictures,
                "accuracy": float(matrix[index, index] / pictures) if pictures else None,
                "precision": float(matrix[index, index] / taken) if taken else None,
                "most_often_taken_for": evaluation.name(int(wrong.argmax())) if wrong.any() else None,
            }
        )
    return rows


def confused_pairs(evaluation: Evaluation, count: int = 20) -> list[dict[str, object]]:
    """The mistakes, the most frequent first: true class, predicted class, pictures, share of the true class."""
    matrix = confusion_matrix(evaluation)
    pictures = matrix.sum(axis=1)
    np.fill_diagonal(matrix, 0)
    order = np.argsort(-matrix, axis=None, kind="stable")[:count]
    pairs = (np.unravel_index(index, matrix.shape) for index in order if matrix.flat[index])
    return [
        {
            "true": evaluation.name(int(true)),
            "predicted": evaluation.name(int(predicted)),
            "pictures": int(matrix[true, predicted]),
            "share": float(matrix[true, predicted] / pictures[true]),
        }
        for true, predicted in pairs
    ]


def worst_mistakes(evaluation: Evaluation, count: int) -> np.ndarray:
    """Indices of the wrong answers, the most confident first."""
    wrong = np.flatnonzero(evaluation.predicted != evaluation.labels)
    return wrong[np.argsort(-evaluation.confidence[wrong], kind="stable")][:count]


class Reliability(NamedTuple):
    """How right confident answers are, in equally wide bins of confidence.

    Attributes:
        edges: (bins + 1,) from 0 to 1.
        counts: (bins,) pictures.
        confidence: (bins,) mean confidence; nan where a bin is empty.
        accuracy: (bins,) share of right answers; nan where a bin is empty.
        error: the expected calibration error (arXiv 1706.04599): the mean of |confidence − accuracy| over pictures.
    """

    edges: np.ndarray
    counts: np.ndarray
    confidence: np.ndarray
    accuracy: np.ndarray
    error: float


def reliability(evaluation: Evaluation, bins: int = 15) -> Reliability:
    """See `Reliability`."""
    edges = np.linspace(0, 1, bins + 1)
    place = np.clip(np.digitize(evaluation.confidence, edges[1:-1], right=True), 0, bins - 1)
    counts = np.bincount(place, minlength=bins)
    right = evaluation.predicted == evaluation.labels
    with np.errstate(invalid="ignore"):
        confidence = np.bincount(place, evaluation.confidence, bins) / counts
        accuracy = np.bincount(place, right, bins) / counts
    error = float(np.nansum(counts * np.abs(confidence - accuracy)) / counts.sum())
    return Reliability(edges, counts, confidence, accuracy, error)
