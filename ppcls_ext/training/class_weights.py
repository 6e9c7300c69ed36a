"""Weights of classes in the loss, for data sets in which some classes have far more images than others."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ppcls_ext.config.recipe import BALANCED, SQRT
from ppcls_ext.data.lists import read_lines
from ppcls_ext.errors import PpclsExtError, one_of


def class_weights(kind: str, labels: np.ndarray, classes: int, names: Sequence[str] | None = None) -> np.ndarray:
    """Returns the weight of each class, (classes,) float64, scaled so that the mean over all images is 1.

    Args:
        kind: "balanced" weighs a class by 1 / its number of images, "sqrt" by the square root of that; else the path of
            a text file with one line a class: its number or name, and its weight.
        labels: (N,) the class of each training image.
        classes: their number.
        names: of the classes, where they have names.

    Raises:
        PpclsExtError: the file cannot be read, or does not give each class a weight.
    """
    counts = np.bincount(labels, minlength=classes)
    if kind in (BALANCED, SQRT):
        with np.errstate(divide="ignore"):
            weights = (1 / counts) ** (1 if kind == BALANCED else 0.5)
        weights[counts == 0] = 0  # no image is of it; smoothed labels must not learn it away
    else:
        weights = _read(Path(kind), classes, names or ())
    mean = float((weights * counts).sum() / counts.sum())
    if mean <= 0:
        raise PpclsExtError(f"{kind}: all classes that have images have the weight 0: nothing would be trained")
    return weights / mean


def _read(path: Path, classes: int, names: Sequence[str]) -> np.ndarray:
    known = {name: index for index, name in enumerate(names)}
    found: dict[int, float] = {}
    for number, line in enumerate(read_lines(path), 1):
        name, _, text = line.strip().rpartition(" ")
        index = known.get(name.strip(), int(name) if name.strip().isdecimal() and len(name) < 8 else -1)
        try:
            weight = float(text)
        except ValueError:
            weight = math.nan
        if not 0 <= index < classes:
            there = one_of(name.strip(), known) if known else f"their numbers, 0 to {classes - 1}"
            raise PpclsExtError(f"{path}:{number}: got {line[:99]!r}, which begins with no class: expected {there}")
        if index in found or not (math.isfinite(weight) and weight >= 0):
            raise PpclsExtError(
                f"{path}:{number}: got {line[:99]!r}, expected a new class, by its number or name, and its weight"
            )
        found[index] = weight
    missing = [index for index in range(classes) if index not in found]
    if missing:
        raise PpclsExtError(f"{path} gives no weight for class {missing[0]} of {classes}: one line a class")
    return np.array([found[index] for index in range(classes)])
