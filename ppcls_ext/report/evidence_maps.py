"""Class activation maps of image files, drawn from a network's evidence for a class."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ppcls_ext.data.image_input import network_input
from ppcls_ext.data.image_rule import Preprocessing
from ppcls_ext.errors import PpclsExtError
from ppcls_ext.files import unused
from ppcls_ext.predict.classifier import softmax
from ppcls_ext.predict.evidence import Halves, read_evidence
from ppcls_ext.predict.metadata import Metadata
from ppcls_ext.report.image_figures import EXACT, FIRST_ORDER, activation_map, draw_activation_map, to_pixels


class DrawnMap(NamedTuple):
    """A map that was drawn.

    Attributes:
        path: the PNG file.
        name: of the class; "class N" where its name is not known.
        score: the class's probability.
    """

    path: Path
    name: str
    score: float


class EvidenceMaps:
    """Draws a PNG per image: the image as the network sees it, and over it the evidence for a class.

    Args:
        halves: the network, cut before its head.
        metadata: how it takes images, and the names of its classes.
        folder: to write to.
        wanted: name or number of the class; the most probable one of each image where None.

    Raises:
        PpclsExtError: there is no class of that name.
    """

    def __init__(
        self, halves: Halves, metadata: Metadata, folder: str | os.PathLike, wanted: str | None = None
    ) -> None:
        self._halves, self._rule = halves, metadata.preprocessing
        self._names = metadata.class_names or ()
        self._folder = Path(folder)
        self._index = None if wanted is None else _class_index(wanted, self._names)
        self._written: list[Path] = []

    def draw(self, file: Path) -> DrawnMap:
        """Draws the map of one image file.

        Raises:
            PpclsExtError: the image cannot be read, the network's outputs are not finite, or it has no such class.
        """
        return self._draw(file, network_input(file, self._rule))

    def _draw(self, file: Path, image: np.ndarray) -> DrawnMap:
        evidence = read_evidence(self._halves, image, self._index)
        index = evidence.class_index
        known = index < len(self._names) and self._names[index]
        name = self._names[index] if known else f"class {index}"
        score = float(softmax(evidence.logits)[index])
        path = unused(self._folder / f"{file.stem}-class-{index}.png", self._written.__contains__)
        draw_activation_map(
            _pixels(image, self._rule),
            activation_map(evidence.features, evidence.derivative),
            name,
            score,
            EXACT if evidence.is_exact else FIRST_ORDER,
            path,
        )
        self._written.append(path)
        return DrawnMap(path, name, score)


def _pixels(image: np.ndarray, rule: Preprocessing) -> np.ndarray:
    pixels = to_pixels(image[None], rule.mean, rule.std, rule.scale)[0]
    return pixels[:, :, ::-1] if rule.channel_order == "BGR" else pixels


def _class_index(text: str, names: Sequence[str]) -> int:
    if text in names:
        return list(names).index(text)
    if text.isdecimal() and len(text) < 8:
        return int(text)
    raise PpclsExtError(f"--class is {text!r}: expected a class's number" + (" or name" if names else ""))
