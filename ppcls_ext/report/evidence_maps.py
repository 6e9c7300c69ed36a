"""Class activation maps of image files, drawn from a network's evidence for a class."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ppcls_ext.data.image_input import network_input
from ppcls_ext.data.image_rule import Preprocessing
from ppcls_ext.data.lists import MULTI_LABEL
from ppcls_ext.files import FreeNames
from ppcls_ext.predict.answers import Choice, class_index, scores_from
from ppcls_ext.predict.evidence import Evidence, Halves, read_each
from ppcls_ext.predict.metadata import Metadata
from ppcls_ext.report.image_figures import (
    EXACT,
    FIRST_ORDER,
    activation_map,
    as_rgb,
    draw_activation_map,
    to_pixels,
)


class DrawnMap(NamedTuple):
    """A map that was drawn.

    Attributes:
        path: the PNG file.
        name: of the class; "class N" where its name is not known.
        score: the class's probability, or its own score of a multi-label network.
    """

    path: Path
    name: str
    score: float


class EvidenceMaps:
    """Draws a PNG per image and class: the image as the network sees it, and over it the evidence for the class.

    Args:
        halves: the network, cut before its head.
        metadata: how it takes images, and the names of its classes.
        folder: to write to.
        wanted: name or number of the class; where None, the most probable one of each image, and of a multi-label
            network every class that the image shows.
        files: the image files that will come, over none of which is drawn.

    Raises:
        PpclsExtError: there is no class of that name.
    """

    def __init__(
        self,
        halves: Halves,
        metadata: Metadata,
        folder: str | os.PathLike,
        wanted: str | None = None,
        files: Sequence[Path] = (),
    ) -> None:
        self._halves, self._rule, self._task = halves, metadata.preprocessing, metadata.task
        self._names, self._is_whole = metadata.class_names or (), metadata.dynamic_size
        self._folder = Path(folder)
        self._index = None if wanted is None else class_index(wanted, self._names, "--class is")
        self._shown = Choice(metadata, topk=None if metadata.task == MULTI_LABEL else 1)
        self._names_of_files = FreeNames(self._folder, files)

    def draw(self, file: Path) -> list[DrawnMap]:
        """Draws the maps of one image file; none where a multi-label network finds no class in it.

        Raises:
            PpclsExtError: the image cannot be read, the network's outputs are not finite, or it has no such class.
        """
        image = network_input(file, self._rule, self._is_whole)
        return [self._draw(file, image, evidence) for evidence in read_each(self._halves, image, self._choose)]

    def _choose(self, logits: np.ndarray) -> list[int]:
        return self._shown(scores_from(logits, self._task))["class_ids"] if self._index is None else [self._index]

    def _draw(self, file: Path, image: np.ndarray, evidence: Evidence) -> DrawnMap:
        index = evidence.class_index
        known = index < len(self._names) and self._names[index]
        name = self._names[index] if known else f"class {index}"
        score = float(scores_from(evidence.logits, self._task)[index])
        path = self._folder / self._names_of_files.take(file.stem, f"-class-{index}")
        draw_activation_map(
            _pixels(image, self._rule),
            activation_map(evidence.features, evidence.derivative),
            name,
            score,
            EXACT if evidence.is_exact else FIRST_ORDER,
            path,
        )
        return DrawnMap(path, name, score)


def _pixels(image: np.ndarray, rule: Preprocessing) -> np.ndarray:
    pixels = to_pixels(image[None], rule.mean, rule.std, rule.scale)[0]
    return pixels[:, :, ::-1] if rule.channel_order == "BGR" else as_rgb(pixels)
