"""A network's predictions for a labelled list of images, and what they tell about each class and image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from ppcls_ext.errors import PpclsExtError


class Predictions(NamedTuple):
    """The predictions for N images.

    Attributes:
        paths: (N,) the image files.
        labels: (N,) true classes.
        probabilities: (N, classes).
        names: class names by index; None where there are none.
    """

    paths: Sequence[str]
    labels: np.ndarray
    probabilities: np.ndarray
    names: Sequence[str] | None = None

    @property
    def classes(self) -> int:
        """Number of classes."""
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
        """Returns the share of images whose true class is among the k most probable."""
        best = np.argsort(-self.probabilities, axis=1, kind="stable")[:, :k]
        return float((best == self.labels[:, None]).any(axis=1).mean())

    def name(self, index: int) -> str:
        """Returns the name of class `index`, or "class 3" where it has none."""
        named = self.names is not None and index < len(self.names) and self.names[index].strip()
        return self.names[index] if self.names is not None and named else f"class {index}"

    def check(self) -> Predictions:
        """Returns itself.

        Raises:
            PpclsExtError: there are no images, their numbers differ, or a probability is not finite.
        """
        if not len(self.labels) or len(self.labels) != len(self.probabilities) or len(self.paths) != len(self.labels):
            raise PpclsExtError(
                f"a report needs images with one label and one answer each: got {len(self.paths)} images, "
                f"{len(self.labels)} labels, {len(self.probabilities)} answers"
            )
        if not np.isfinite(self.probabilities).all():
            raise PpclsExtError("the answers are not finite: the weights are damaged, or training diverged")
        return self


def confusion_matrix(predictions: Predictions) -> np.ndarray:
    """Returns (classes, classes) counts: a row per true class, a column per predicted class."""
    matrix = np.zeros((predictions.classes, predictions.classes), np.int64)
    np.add.at(matrix, (predictions.labels, predictions.predicted), 1)
    return matrix


def per_class(predictions: Predictions) -> list[dict[str, Any]]:
    """Returns a row per class: number of images, accuracy (recall), precision, and its most frequent confusion."""
    matrix = confusion_matrix(predictions)
    rows = []
    for index in range(predictions.classes):
        images, taken = int(matrix[index].sum()), int(matrix[:, index].sum())
        wrong = matrix[index].copy()
        wrong[index] = 0
        rows.append(
            {
                "class": index,
                "name": predictions.name(index),
                "pictures": images,
                "accuracy": float(matrix[index, index] / images) if images else None,
                "precision": float(matrix[index, index] / taken) if taken else None,
                "most_often_taken_for": predictions.name(int(wrong.argmax())) if wrong.any() else None,
            }
        )
    return rows


def confused_pairs(predictions: Predictions, count: int = 20) -> list[dict[str, Any]]:
    """Returns the most frequent confusions: true class, predicted class, number of images, share of the true class."""
    matrix = confusion_matrix(predictions)
    images = matrix.sum(axis=1)
    np.fill_diagonal(matrix, 0)
    order = np.argsort(-matrix, axis=None, kind="stable")[:count]
    pairs = (np.unravel_index(index, matrix.shape) for index in order if matrix.flat[index])
    return [
        {
            "true": predictions.name(int(true)),
            "predicted": predictions.name(int(predicted)),
            "pictures": int(matrix[true, predicted]),
            "share": float(matrix[true, predicted] / images[true]),
        }
        for true, predicted in pairs
    ]


def worst_mistakes(predictions: Predictions, count: int) -> np.ndarray:
    """Returns the indices of the images with wrong predictions, the most confident first."""
    wrong = np.flatnonzero(predictions.predicted != predictions.labels)
    return wrong[np.argsort(-predictions.confidence[wrong], kind="stable")][:count]


class Reliability(NamedTuple):
    """A reliability diagram: the accuracy of predictions in equally wide bins of confidence.

    Attributes:
        edges: (bins + 1,) from 0 to 1.
        counts: (bins,) number of images.
        confidence: (bins,) mean confidence; nan where a bin is empty.
        accuracy: (bins,) share of right predictions; nan where a bin is empty.
        error: the expected calibration error (arXiv 1706.04599): the mean of |confidence − accuracy| over the images.
    """

    edges: np.ndarray
    counts: np.ndarray
    confidence: np.ndarray
    accuracy: np.ndarray
    error: float


def reliability(predictions: Predictions, bins: int = 15) -> Reliability:
    """Computes the reliability diagram."""
    edges = np.linspace(0, 1, bins + 1)
    place = np.clip(np.digitize(predictions.confidence, edges[1:-1], right=True), 0, bins - 1)
    counts = np.bincount(place, minlength=bins)
    right = predictions.predicted == predictions.labels
    with np.errstate(invalid="ignore"):
        confidence = np.bincount(place, predictions.confidence, bins) / counts
        accuracy = np.bincount(place, right, bins) / counts
    error = float(np.nansum(counts * np.abs(confidence - accuracy)) / counts.sum())
    return Reliability(edges, counts, confidence, accuracy, error)
