"""A network's predictions for a labelled list of images, and what they tell about each class and image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from ppcls_ext.errors import PpclsExtError

#: Scores that are gone through at once: the caches of a core hold them.
IN_CACHE = 1 << 17


class Ranked(NamedTuple):
    """What a report needs of the probabilities of N images; all of them for 21,000 classes would fill the memory.

    Attributes:
        predicted: (N,) the most probable classes.
        confidence: (N,) their probabilities; nan or infinity where one of the image is so.
        rank: (N,) number of classes that are more probable than the true one, or as probable and before it.
    """

    predicted: np.ndarray
    confidence: np.ndarray
    rank: np.ndarray


def ranked(scores: np.ndarray, labels: np.ndarray, are_logits: bool = False) -> Ranked:
    """Returns what is kept of a batch of answers.

    Args:
        scores: (N, classes), probabilities or logits.
        labels: (N,) true classes.
        are_logits: whether probabilities are to be computed by a softmax.
    """
    count = max(1, IN_CACHE // scores.shape[1])
    parts = [_ranked(scores[i : i + count], labels[i : i + count], are_logits) for i in range(0, len(scores), count)]
    return Ranked(*map(np.concatenate, zip(*parts)))


def _ranked(scores: np.ndarray, labels: np.ndarray, are_logits: bool) -> Ranked:
    predicted = scores.argmax(axis=1)  # of a row with nan, its place
    confidence = best = np.take_along_axis(scores, predicted[:, None], axis=1)
    if are_logits:
        confidence = 1 / np.exp(scores - best).sum(axis=1, keepdims=True)
    rank = np.zeros(len(scores), np.int64)
    wrong = np.flatnonzero(predicted != labels)
    rows, true = scores[wrong], labels[wrong, None]
    of_label = np.take_along_axis(rows, true.astype(np.int64), axis=1)
    before = np.arange(scores.shape[1]) < true
    rank[wrong] = np.count_nonzero((rows > of_label) | ((rows == of_label) & before), axis=1)
    return Ranked(predicted, confidence[:, 0], rank)


class Predictions:
    """The predictions for N images.

    Args:
        paths: (N,) the image files.
        labels: (N,) true classes.
        probabilities: (N, classes), of which only `Ranked` is kept.
        names: class names by index; None where there are none.

    Attributes:
        paths: as given.
        labels: as given.
        names: as given.
        classes: number of classes.
        predicted: (N,) the most probable classes.
        confidence: (N,) the probabilities of the most probable classes.
    """

    def __init__(
        self,
        paths: Sequence[str],
        labels: np.ndarray,
        probabilities: np.ndarray,
        names: Sequence[str] | None = None,
    ) -> None:
        count = min(len(labels), len(probabilities))
        parts = [ranked(probabilities[:count], labels[:count])] if count else []
        self._set(paths, labels, parts, probabilities.shape[1], names)

    @classmethod
    def of_batches(
        cls,
        paths: Sequence[str],
        labels: np.ndarray,
        batches: Sequence[Ranked],
        classes: int,
        names: Sequence[str] | None = None,
    ) -> Predictions:
        """Returns the predictions of which each batch was `ranked` as it came."""
        made = cls.__new__(cls)
        made._set(paths, labels, batches, classes, names)
        return made

    def _set(
        self,
        paths: Sequence[str],
        labels: np.ndarray,
        batches: Sequence[Ranked],
        classes: int,
        names: Sequence[str] | None,
    ) -> None:
        self.paths, self.labels, self.classes, self.names = paths, labels, classes, names
        nothing = np.zeros(0, np.int64)
        whole = Ranked(*map(np.concatenate, zip(*batches))) if batches else Ranked(nothing, nothing, nothing)
        self.predicted, self.confidence, self._rank = whole

    def accuracy(self, k: int = 1) -> float:
        """Returns the share of images whose true class is among the k most probable."""
        return float((self._rank < k).mean())

    def name(self, index: int) -> str:
        """Returns the name of class `index`, or "class 3" where it has none."""
        named = self.names is not None and index < len(self.names) and self.names[index].strip()
        return self.names[index] if self.names is not None and named else f"class {index}"

    def check(self) -> Predictions:
        """Returns itself.

        Raises:
            PpclsExtError: there are no images, their numbers differ, or a probability is not finite.
        """
        if not len(self.labels) or len(self.labels) != len(self.predicted) or len(self.paths) != len(self.labels):
            raise PpclsExtError(
                f"a report needs images with one label and one answer each: got {len(self.paths)} images, "
                f"{len(self.labels)} labels, {len(self.predicted)} answers"
            )
        if not np.isfinite(self.confidence).all():
            raise PpclsExtError("the answers are not finite: the weights are damaged, or training diverged")
        return self


class Confusions(NamedTuple):
    """How often each class was taken for another: only for the M pairs that occur, as classes² may be millions.

    Attributes:
        true: (M,) true classes, in ascending order.
        predicted: (M,) predicted classes, other than the true ones, ascending for each true class.
        counts: (M,) number of images.
    """

    true: np.ndarray
    predicted: np.ndarray
    counts: np.ndarray


def confusions(predictions: Predictions) -> Confusions:
    """Counts the wrong predictions by true and predicted class."""
    labels = predictions.labels.astype(np.int64)
    wrong = np.flatnonzero(labels != predictions.predicted)
    pairs, counts = np.unique(labels[wrong] * predictions.classes + predictions.predicted[wrong], return_counts=True)
    return Confusions(pairs // predictions.classes, pairs % predictions.classes, counts)


def confusion_matrix(predictions: Predictions) -> np.ndarray:
    """Returns (classes, classes) counts, for few classes: a row per true class, a column per predicted class."""
    matrix = np.diag(_right(predictions))
    found = confusions(predictions)
    matrix[found.true, found.predicted] = found.counts
    return matrix


def _right(predictions: Predictions) -> np.ndarray:
    """(classes,) number of right predictions."""
    labels = predictions.labels
    return np.bincount(labels[labels == predictions.predicted], minlength=predictions.classes)


def per_class(predictions: Predictions) -> list[dict[str, Any]]:
    """Returns a row per class: number of images, accuracy (recall), precision, and its most frequent confusion."""
    classes, found = predictions.classes, confusions(predictions)
    images = np.bincount(predictions.labels, minlength=classes).tolist()
    taken = np.bincount(predictions.predicted, minlength=classes).tolist()
    right = _right(predictions).tolist()
    order = np.lexsort((found.predicted, -found.counts, found.true))
    true, first = np.unique(found.true[order], return_index=True)
    most_often = dict(zip(true.tolist(), found.predicted[order][first].tolist()))
    return [
        {
            "class": index,
            "name": predictions.name(index),
            "pictures": images[index],
            "accuracy": right[index] / images[index] if images[index] else None,
            "precision": right[index] / taken[index] if taken[index] else None,
            "most_often_taken_for": predictions.name(most_often[index]) if index in most_often else None,
        }
        for index in range(classes)
    ]


def macro_f1(predictions: Predictions) -> float:
    """Returns the mean F1 of the classes that have an image or are predicted, as scikit-learn's `f1_score` does."""
    images = np.bincount(predictions.labels, minlength=predictions.classes)
    taken = np.bincount(predictions.predicted, minlength=predictions.classes)
    there = images + taken > 0
    return float((2 * _right(predictions)[there] / (images + taken)[there]).mean())


def confused_pairs(predictions: Predictions, count: int = 20) -> list[dict[str, Any]]:
    """Returns the most frequent confusions: true class, predicted class, number of images, share of the true class."""
    found, images = confusions(predictions), np.bincount(predictions.labels, minlength=predictions.classes)
    return [
        {
            "true": predictions.name(int(found.true[pair])),
            "predicted": predictions.name(int(found.predicted[pair])),
            "pictures": int(found.counts[pair]),
            "share": float(found.counts[pair] / images[found.true[pair]]),
        }
        for pair in np.argsort(-found.counts, kind="stable")[:count]
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
