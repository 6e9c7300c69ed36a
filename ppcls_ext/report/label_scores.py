"""A network's scores for images that may show several classes, and what they tell about each class and image.

The definitions are scikit-learn's: `average_precision_score`, `f1_score`, `hamming_loss` and `accuracy_score`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from ppcls_ext.errors import PpclsExtError

#: The threshold of a class about which nothing is known.
USUAL_THRESHOLD = 0.5


class LabelScores(NamedTuple):
    """The scores of N images.

    Attributes:
        paths: (N,) the image files.
        labels: (N, classes), 1 where the image shows the class, else 0.
        scores: (N, classes), from 0 to 1.
        thresholds: (classes,), the score from which on an image is said to show the class.
        names: class names by index; None where there are none.
    """

    paths: Sequence[str]
    labels: np.ndarray
    scores: np.ndarray
    thresholds: Sequence[float]
    names: Sequence[str] | None = None

    @property
    def classes(self) -> int:
        """Number of classes."""
        return self.scores.shape[1]

    @property
    def predicted(self) -> np.ndarray:
        """(N, classes), True where the score reaches the threshold."""
        return self.scores >= np.asarray(self.thresholds)

    def name(self, index: int) -> str:
        """Returns the name of class `index`, or "class 3" where it has none."""
        named = self.names is not None and index < len(self.names) and self.names[index].strip()
        return self.names[index] if self.names is not None and named else f"class {index}"

    def check(self) -> LabelScores:
        """Returns itself.

        Raises:
            PpclsExtError: there are no images, or the numbers of images, labels and scores differ.
        """
        if not len(self.labels) or self.labels.shape != self.scores.shape or len(self.paths) != len(self.labels):
            raise PpclsExtError(
                f"a report needs images with a label and a score of each class: got {len(self.paths)} images, labels "
                f"{list(self.labels.shape)}, scores {list(self.scores.shape)}"
            )
        return self


def sigmoid(logits: np.ndarray) -> np.ndarray:
    """Returns the scores of logits, in float64."""
    return np.exp(-np.logaddexp(0, -logits.astype(np.float64)))


def average_precision(labels: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Computes the average precision of each class: the sum over the scores of precision times gain in recall.

    Images of equal scores count at once, whatever their order, and nothing is interpolated.

    Args:
        labels: (N, classes), 0 or 1.
        scores: (N, classes).

    Returns:
        (classes,); nan for a class that no image shows.
    """
    return np.array([_average_precision(labels[:, index], scores[:, index]) for index in range(labels.shape[1])])


def _average_precision(labels: np.ndarray, scores: np.ndarray) -> float:
    if not labels.any():
        return float("nan")
    ends, hits = _cuts(labels, scores)
    return float(np.sum(np.diff(hits, prepend=0) * hits / ends) / labels.sum())


def _cuts(labels: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each different score, downwards: how many images have it or a better one, and how many of these are right."""
    order = np.argsort(-scores, kind="stable")
    ordered = scores[order]
    ends = np.append(np.flatnonzero(ordered[1:] != ordered[:-1]) + 1, len(ordered))
    return ends, np.cumsum(labels[order])[ends - 1].astype(np.float64)


def choose_thresholds(labels: np.ndarray, scores: np.ndarray) -> tuple[float, ...]:
    """Chooses the threshold of each class with the best F1.

    A threshold lies in the middle between the last score that it lets in and the first that it does not (0 where there
    is none); of equally good ones, the nearest to 0.5 is taken. Scores are compared in steps of a millionth, as the
    runtimes of an exported file disagree about less.

    Args:
        labels: (N, classes), 0 or 1.
        scores: (N, classes), from 0 to 1.

    Returns:
        (classes,); `USUAL_THRESHOLD` for a class that no image shows.
    """
    scores = np.round(scores, 6)
    return tuple(_choose_threshold(labels[:, index], scores[:, index]) for index in range(labels.shape[1]))


def _choose_threshold(labels: np.ndarray, scores: np.ndarray) -> float:
    if not labels.any():
        return USUAL_THRESHOLD
    ends, hits = _cuts(labels, scores)
    ordered = np.append(-np.sort(-scores), 0.0)
    last, below = ordered[ends - 1], ordered[ends]
    middle = np.round((last + below) / 2, 7)
    f1 = 2 * hits / (ends + labels.sum())
    best = np.flatnonzero(f1 == f1.max())
    return float(middle[best[np.argmin(np.abs(middle[best] - USUAL_THRESHOLD))]])


def measures(found: LabelScores) -> dict[str, float]:
    """Computes the metrics over all classes.

    Returns:
        "mAP", the mean of the average precisions of the classes that an image shows (nan where there are none);
        "f1_micro", over all labels; "f1_macro", the mean over all classes, 0 for one that is neither shown nor
        predicted; "hamming_distance", the share of wrong labels; "exact_match", the share of images without one.
    """
    labels, predicted = found.labels.astype(bool), found.predicted
    right, wrong = labels & predicted, labels != predicted
    precisions = average_precision(found.labels, found.scores)
    known = precisions[~np.isnan(precisions)]
    f1_micro = _ratio(2 * right.sum(keepdims=True), labels.sum(keepdims=True) + predicted.sum(keepdims=True))
    return {
        "mAP": float(known.mean()) if len(known) else float("nan"),
        "f1_micro": float(f1_micro.item()),
        "f1_macro": float(_ratio(2 * right.sum(axis=0), labels.sum(axis=0) + predicted.sum(axis=0)).mean()),
        "hamming_distance": float(wrong.mean()),
        "exact_match": float((~wrong.any(axis=1)).mean()),
    }


def _ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """0 where `below` is 0."""
    return above / np.maximum(below, 1)


def per_class(found: LabelScores) -> list[dict[str, Any]]:
    """Returns a row per class: images that show it, average precision, threshold, and precision, recall and F1 there.

    None stands for what has no value: of a class that no image shows, or that is never predicted.
    """
    labels, predicted = found.labels.astype(bool), found.predicted
    precisions = average_precision(found.labels, found.scores)
    rows = []
    for index in range(found.classes):
        shown, said = int(labels[:, index].sum()), int(predicted[:, index].sum())
        right = int((labels[:, index] & predicted[:, index]).sum())
        rows.append(
            {
                "class": index,
                "name": found.name(index),
                "images": shown,
                "average_precision": float(precisions[index]) if shown else None,
                "threshold": float(found.thresholds[index]),
                "precision": right / said if said else None,
                "recall": right / shown if shown else None,
                "f1": 2 * right / (shown + said) if shown else None,
            }
        )
    return rows


def worst_labels(found: LabelScores, count: int) -> list[tuple[int, int]]:
    """Returns image and class of the wrong labels, the most confident first.

    Confidence is how far the score lies from the threshold, as a share of what lies on its side: from 0 at the
    threshold to 1 at a score of 0 or 1.
    """
    thresholds, scores = np.asarray(found.thresholds), found.scores
    over = np.where(scores >= thresholds, (scores - thresholds) / np.maximum(1 - thresholds, 1e-12), 0)
    confidence = np.where(scores >= thresholds, over, (thresholds - scores) / np.maximum(thresholds, 1e-12))
    confidence = np.where(found.predicted != found.labels.astype(bool), confidence, -1)
    flat = confidence.ravel()
    # only these can be among the first, and sorting all would take longer than all else
    some = np.flatnonzero(flat >= max(np.partition(flat, -count)[-count] if count < len(flat) else 0, 0))
    order = some[np.argsort(-flat[some], kind="stable")][:count]
    places = (np.unravel_index(place, confidence.shape) for place in order if confidence.flat[place] >= 0)
    return [(int(image), int(label)) for image, label in places]
