"""What a classifier's outputs say of an image: scores from logits, thresholds, and the classes that it shows."""

from __future__ import annotations

import numbers
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, Union

import numpy as np

from ppcls_ext.data.lists import MULTI_LABEL
from ppcls_ext.errors import PpclsExtError, one_of

#: Number of classes of a single-label result where neither a number nor a threshold is asked for.
DEFAULT_TOPK = 5
#: The score from which on an image shows a class, where nobody knows a better one.
DEFAULT_THRESHOLD = 0.5
#: One number for all classes, one per class, or numbers by a class's name or index, None standing for all others.
Threshold = Union[float, Sequence[float], Mapping[Union[str, int, None], float]]


class Labelled(Protocol):
    """What a network's outputs stand for, as `Metadata` says it."""

    @property
    def task(self) -> str:
        """Returns "single-label" or "multi-label"."""

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """Returns the names by class index; None where unknown."""

    @property
    def thresholds(self) -> tuple[float, ...] | None:
        """Returns the threshold of each class; None where unknown."""


class Classes(NamedTuple):
    """The `Labelled` of a network that has no metadata."""

    task: str
    class_names: tuple[str, ...] | None
    thresholds: tuple[float, ...] | None


def softmax(logits: np.ndarray) -> np.ndarray:
    """Computes the softmax over the last axis of `logits: (N, classes)`."""
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def sigmoid(logits: np.ndarray) -> np.ndarray:
    """Computes the sigmoid of each of `logits`, of any shape; the type stays."""
    return np.exp(-np.logaddexp(0, -logits.astype(np.float64))).astype(logits.dtype)


def scores_from(logits: np.ndarray, task: str) -> np.ndarray:
    """Computes scores: probabilities that sum up to 1 for "single-label", one score by itself for each class else.

    Args:
        logits: (N, classes).
        task: see `Metadata`.
    """
    return sigmoid(logits) if task == MULTI_LABEL else softmax(logits)


def thresholds_of(network: Labelled, classes: int, given: Threshold | None = None) -> np.ndarray:
    """Returns the threshold of each class, (classes,) float64.

    Args:
        network: its own thresholds count for the classes that `given` does not name, else 0.5.
        classes: number of classes of the network.
        given: see `Threshold`.

    Raises:
        PpclsExtError: a threshold is no number from 0 to 1, or is for a class that does not exist; or there are not as
            many as classes.
    """
    own = [DEFAULT_THRESHOLD] * classes if network.thresholds is None else network.thresholds
    found = _as_many(own, classes)
    if isinstance(given, Mapping):
        if None in given:
            found[:] = check_threshold(given[None])
        named = {name: value for name, value in given.items() if name is not None}
        for index, value in zip(class_indices(named, network.class_names or ()), named.values()):
            if index >= classes:
                raise PpclsExtError(f"there is no class {index}: the network has the classes 0 to {classes - 1}")
            found[index] = check_threshold(value)
        return found
    values = [check_threshold(value) for value in _values(given)]
    if given is None:
        return found
    return _as_many(values, classes) if isinstance(given, (Sequence, np.ndarray)) else np.full(classes, values[0])


def check_threshold(value: Any) -> float:
    """Returns a threshold; raises PpclsExtError where it is no number from 0 to 1."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real) or not 0 <= float(value) <= 1:
        raise PpclsExtError(f"threshold is {value!r}: expected a number from 0 to 1, or one for each class")
    return float(value)


def class_index(wanted: str | int, names: Sequence[str], said: str = "threshold is for") -> int:
    """Returns the index of a class that is named or numbered; see `class_indices`."""
    return class_indices([wanted], names, said)[0]


def class_indices(wanted: Iterable[str | int], names: Sequence[str], said: str = "threshold is for") -> list[int]:
    """Returns the indices of classes that are named or numbered.

    Args:
        wanted: the names; where no class has it, or for a number, the index.
        names: the names by index; may be empty.
        said: what the error begins with.

    Raises:
        PpclsExtError: there is no class of that name, or there are several.
    """
    counts = Counter(names)
    places = {name: index for index, name in enumerate(names)}
    return [_class_index(one, counts, places, said) for one in wanted]


def _class_index(wanted: str | int, counts: Mapping[str, int], places: Mapping[str, int], said: str) -> int:
    if isinstance(wanted, str):
        if wanted and wanted in places:
            if counts[wanted] > 1:
                raise PpclsExtError(
                    f"{said} {wanted!r}, the name of {counts[wanted]} classes: expected a class's number"
                )
            return places[wanted]
        if wanted.isdecimal() and len(wanted) < 8:
            return int(wanted)
    elif isinstance(wanted, numbers.Integral) and not isinstance(wanted, bool) and wanted >= 0:
        return int(wanted)
    names = f" or name: {one_of(wanted, places)}" if places else ""
    raise PpclsExtError(f"{said} {wanted!r}: expected a class's number{names}")


@dataclass(frozen=True)
class Choice:
    """Chooses the classes of an image's result: the best ones, or those at or above their thresholds.

    Args:
        network: what its outputs stand for.
        topk: the most classes; None for all that the thresholds leave, and for `DEFAULT_TOPK` where there are none.
        threshold: None for the network's own: for "multi-label" 0.5 where it has none, for "single-label" no threshold.

    Raises:
        PpclsExtError: `topk` is no whole number from 1, or a threshold is wrong; see `thresholds_of`.
    """

    network: Labelled
    topk: int | None = None
    threshold: Threshold | None = None
    _known: dict[int, np.ndarray] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.topk is not None and (type(self.topk) is not int or self.topk < 1):
            raise PpclsExtError(f"topk is {self.topk!r}: expected a whole number from 1")
        if isinstance(self.threshold, Mapping):
            class_indices([name for name in self.threshold if name is not None], self.network.class_names or ())
        for value in _values(self.threshold):
            check_threshold(value)

    def __call__(self, scores: np.ndarray) -> dict[str, list]:
        """Returns the result of one image, with the keys of PaddleClas's inference.

        Args:
            scores: (classes,).

        Returns:
            `class_ids` and `scores`, best first, and `label_names`, empty where they are unknown; no classes at all
            where none reaches its threshold.

        Raises:
            PpclsExtError: there are thresholds for another number of classes.
        """
        if self.threshold is None and self.network.task != MULTI_LABEL:
            indices = _best(scores, np.arange(len(scores)), self.topk or DEFAULT_TOPK)
        else:
            indices = _best(scores, np.flatnonzero(scores >= self._thresholds(len(scores))), self.topk)
        names = self.network.class_names
        return {
            "class_ids": indices,
            "scores": [round(float(scores[index]), 5) for index in indices],
            "label_names": [] if names is None else [names[i] if i < len(names) else "" for i in indices],
        }

    def _thresholds(self, classes: int) -> np.ndarray:
        """Returns `thresholds_of` so many classes, which for 21,000 takes longer than an image's result."""
        if classes not in self._known:
            self._known[classes] = thresholds_of(self.network, classes, self.threshold)
        return self._known[classes]


def _best(scores: np.ndarray, among: np.ndarray, most: int | None) -> list[int]:
    """Returns the classes with the largest scores among some, best first, of equal ones the later first."""
    if most is not None and most < len(among):
        # sorting all of 21,000 classes would take longer than the rest of an image's result
        among = among[scores[among] >= np.partition(scores[among], -most)[-most]]
    return among[scores[among].argsort(kind="stable")[::-1]][:most].tolist()


def _values(given: Threshold | None) -> list[Any]:
    """Returns the numbers that a threshold consists of."""
    if given is None:
        return []
    if isinstance(given, Mapping):
        return list(given.values())
    return list(given) if isinstance(given, (Sequence, np.ndarray)) and not isinstance(given, str) else [given]


def _as_many(thresholds: Sequence[float], classes: int) -> np.ndarray:
    if len(thresholds) != classes:
        raise PpclsExtError(f"there are {len(thresholds)} thresholds for a network of {classes} classes")
    return np.array(thresholds, np.float64)
