"""Figures that show images: sheets of many, predictions (--save-image), and class activation maps (explain)."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Union

import numpy as np
from PIL import Image

from ppcls_ext.data.lists import SINGLE_LABEL
from ppcls_ext.errors import PpclsExtError
from ppcls_ext.files import FreeNames
from ppcls_ext.packages import require
from ppcls_ext.predict.results import NO_CLASS
from ppcls_ext.report.figures import BAR, RED, draw_bars, drawable, figure, fitted, place_axes, text_width

#: Maximum number of images on one sheet.
LARGEST_SHEET = 64
CELL, LINE, TITLE = 150, 14, 40  # px: the side of a sheet's cell, the height of a caption's line, and of the title
CAPTION = 7.5  # pt
#: Least side of an image on a figure, px: a line of pixels is to be seen, too.
THIN = 3
#: Most classes in the figure of a prediction.
LARGEST_PREDICTION = 100
#: Longer side, px, of an image that is kept for a figure, and of one in the figure of a prediction, which is that wide.
PREDICTION_SIDE, PREDICTION_SHOWN, PREDICTION_WIDTH = 400, 320, 760

EXACT = "class activation map (exact)"
FIRST_ORDER = "class activation map (first order: the head is not linear)"
#: Opacity of an activation map where the evidence is strongest.
OPACITY = 0.8

#: A line of a caption: a text, or one with a number behind it, such as a name and its percentage.
Line = Union[str, tuple[str, str]]


def draw_sheet(
    images: Sequence[np.ndarray],
    captions: Sequence[Sequence[Line]],
    title: str,
    path: str | os.PathLike,
    marked: Sequence[bool] | None = None,
) -> int:
    """Draws up to `LARGEST_SHEET` images in rows.

    Args:
        images: (H, W, 3) uint8 each, of any sizes.
        captions: the lines of each image; their texts are shortened where they are too long, never their numbers.
        title: title of the sheet.
        path: the PNG file.
        marked: which captions are red.

    Returns:
        The number of images on the sheet.
    """
    count = min(len(images), LARGEST_SHEET)
    columns = min(8, max(1, math.ceil(math.sqrt(count))))
    rows = max(1, math.ceil(count / columns))
    lines = max([len(caption) for caption in captions[:count]], default=1)
    height = CELL + LINE * lines  # of a cell with its caption
    width = max(2, columns) * CELL  # of the sheet, room for a title
    with figure(path, width, TITLE + rows * height) as drawn:
        # one pair of axes in px: matplotlib takes seconds to lay out 64
        axes = place_axes(drawn, 0, TITLE, width, rows * height)
        axes.axis("off")
        axes.text(width / 2, -TITLE / 2, fitted(drawable(title, "images"), width - 10, 10), ha="center", fontsize=10)
        for index, image in enumerate(images[:count]):
            row, column = divmod(index, columns)
            left, top = (width - columns * CELL) / 2 + column * CELL, row * height + LINE * lines
            extent = _centred(image, (left + 4, top + 4), (CELL - 8, CELL - 8))
            axes.imshow(image, extent=extent, aspect="auto")
            text = "\n".join(_line(line) for line in captions[index])
            colour = RED if marked is not None and marked[index] else "black"
            middle, above = left + CELL / 2, extent[3] - 3
            axes.text(middle, above, text, ha="center", va="bottom", fontsize=CAPTION, color=colour)
        axes.set_xlim(0, width)
        axes.set_ylim(rows * height, 0)
    return count


def _line(line: Line) -> str:
    """Returns a line of a caption as far as it fits into a cell."""
    text, number = (line, "") if isinstance(line, str) else line
    behind = f"  {number}" if number else ""
    return fitted(drawable(text, "class"), CELL - 6 - text_width(behind, CAPTION), CAPTION) + behind


def _centred(
    image: np.ndarray, corner: tuple[float, float], room: tuple[float, float]
) -> tuple[float, float, float, float]:
    """Returns left, right, bottom and top of an image in a room, its width and height, by its upper left corner."""
    height, width = image.shape[:2]
    scale = min(room[0] / width, room[1] / height)
    wide, high = max(width * scale, THIN), max(height * scale, THIN)
    x, y = corner[0] + (room[0] - wide) / 2, corner[1] + (room[1] - high) / 2
    return x, x + wide, y + high, y


def to_pixels(images: np.ndarray, mean: Sequence[float], std: Sequence[float], scale: float = 1 / 255) -> np.ndarray:
    """Undoes the normalisation of network inputs.

    Args:
        images: (N, C, H, W).
        mean: see `Preprocessing`.
        std: see `Preprocessing`.
        scale: see `Preprocessing`.

    Returns:
        (N, H, W, C) uint8.
    """
    values = images.transpose(0, 2, 3, 1).astype(np.float64)
    levels = (values * np.asarray(std) + np.asarray(mean)) / scale
    return np.clip(np.rint(levels), 0, 255).astype(np.uint8)


def as_rgb(image: np.ndarray) -> np.ndarray:
    """Makes an image of any channels one to look at.

    Args:
        image: (…, C) uint8.

    Returns:
        (…, 3) uint8: one or two channels are grey, the second being alpha; of four the first three are RGB; of any
        other number their mean is shown, in grey.
    """
    channels = image.shape[-1]
    if channels in (3, 4):
        return image[..., :3]
    grey = image[..., :1] if channels < 3 else np.rint(image.mean(axis=-1, keepdims=True)).astype(np.uint8)
    return np.repeat(grey, 3, axis=-1)


def shrunk(image: np.ndarray, side: int = PREDICTION_SIDE) -> np.ndarray:
    """Shrinks an image, so that neither side is longer than `side`; a smaller one stays as it is.

    Args:
        image: (H, W, C) uint8; see `as_rgb`.
        side: px.

    Returns:
        (h, w, 3) uint8.
    """
    small = Image.fromarray(np.ascontiguousarray(as_rgb(image)))
    small.thumbnail((side, side))
    return np.asarray(small)


def draw_prediction(
    image: np.ndarray,
    names: Sequence[str],
    scores: Sequence[float],
    title: str,
    path: str | os.PathLike,
    unit: str = "probability",
) -> None:
    """Draws an image and, beside it, a bar for each of its classes, or the words that it shows none.

    Args:
        image: (H, W, 3) uint8.
        names: class names, best first.
        scores: their scores.
        title: title of the figure, such as the file's name.
        path: the PNG file.
        unit: what the scores are.
    """
    bars, left = BAR * max(len(names), 1), 35 + PREDICTION_SHOWN
    width = PREDICTION_WIDTH - left - 20
    side, end, bottom, top = _centred(image, (10, 0), (PREDICTION_SHOWN, PREDICTION_SHOWN))
    height = TITLE + max(bottom - top + 10, bars + 50)
    with figure(path, PREDICTION_WIDTH, height) as drawn:
        # by hand, as matplotlib's layout makes room for long names at the cost of all else
        picture = place_axes(drawn, 0, 0, left, height)
        picture.axis("off")
        picture.imshow(image, extent=(side, end, TITLE + bottom - top, TITLE), aspect="auto")
        picture.set_xlim(0, left)
        picture.set_ylim(height, 0)
        picture.text(10, TITLE / 2, fitted(drawable(title, "image"), PREDICTION_WIDTH - 20), va="center")
        right = place_axes(drawn, left, TITLE, width, bars)
        draw_bars(
            right, [drawable(name, "class") for name in names], [f"{score:.1%}" for score in scores], scores, width
        )
        if not len(names):
            right.text(0.5, -0.3, NO_CLASS, ha="center", va="center")
        right.set_xlim(0, 1)
        right.set_xlabel(unit)


class SavedImages:
    """Draws predictions one by one, and a sheet of each `LARGEST_SHEET` of them: the option --save-image.

    Args:
        target: a PNG file for one image, a folder for several.
        files: the image files that will come.
        task: of the network, "single-label" or "multi-label".

    Attributes:
        written: the files written, in order.

    Raises:
        PpclsExtError: the target is a file for several images, one of these, or a file that is not PNG; or matplotlib
            is missing.
    """

    def __init__(self, target: str | os.PathLike, files: Sequence[str | os.PathLike], task: str = SINGLE_LABEL) -> None:
        require("matplotlib")  # before the work, not after it
        self._unit = "probability" if task == SINGLE_LABEL else "score"
        self._target = Path(target)
        self._is_file = self._target.suffix.lower() == ".png" and not self._target.is_dir()
        if self._target.suffix and not self._is_file and not self._target.is_dir():
            raise PpclsExtError(f"--save-image is {target}: expected a .png file or a folder")
        if self._is_file and len(files) > 1:
            raise PpclsExtError(f"--save-image is the file {target}, and there are {len(files)} images: give a folder")
        if self._is_file and any(os.path.realpath(file) == os.path.realpath(target) for file in files):
            raise PpclsExtError(f"--save-image is {target}, the image itself: give another name")
        self._names = FreeNames(self._target, files)
        sheets = range(1, 1 + math.ceil(len(files) / LARGEST_SHEET))
        self._sheet_names = iter([self._names.take(f"sheet-{number:02d}") for number in sheets])
        self._sheet: list[tuple[np.ndarray, list[Line]]] = []
        self.written: list[Path] = []

    def add(self, path: str | os.PathLike, image: np.ndarray, result: Mapping[str, Any]) -> None:
        """Draws one prediction.

        Args:
            path: path of the image file.
            image: (H, W, C) uint8; see `as_rgb`.
            result: "class_ids", "scores" and "label_names", as `Classifier` returns them.
        """
        image, title, scores = shrunk(image), Path(path).name, result["scores"]
        names = result.get("label_names") or [""] * len(scores)
        names = [drawable(name, f"class {index}") for name, index in zip(names, result["class_ids"])]
        file = self._target if self._is_file else self._target / self._names.take(Path(path).stem)
        most = slice(LARGEST_PREDICTION)
        more = f" (the best {LARGEST_PREDICTION} of {len(names)} classes)" if len(names) > LARGEST_PREDICTION else ""
        draw_prediction(image, names[most], scores[most], title + more, file, self._unit)
        self.written.append(file)
        self._sheet.append((image, [title, (names[0], f"{scores[0]:.1%}") if names else NO_CLASS]))
        if len(self._sheet) == LARGEST_SHEET:
            self._draw_sheet()

    def finish(self) -> str:
        """Draws the last sheet, which a single image does not need, and returns a line about the files written."""
        if self._sheet and len(self.written) > 1:
            self._draw_sheet()
        return f"{len(self.written)} images written, the last {self.written[-1]}" if self.written else ""

    def _draw_sheet(self) -> None:
        file = self._target / next(self._sheet_names)
        images, captions = zip(*self._sheet)
        draw_sheet(images, captions, "predictions", file)
        self.written.append(file)
        self._sheet = []


def activation_map(features: np.ndarray, derivative: np.ndarray) -> np.ndarray:
    """Computes a class activation map (arXiv 1512.04150): the evidence for one class at each place of an image.

    For a network that ends in global average pooling and a linear layer, it is the sum of the last maps, each times
    the weight from its mean to the class: their mean over all places is the logit, up to the bias. After FasterNet's
    pooling come a 1×1 convolution and an activation as well; there the weight is the derivative of the logit with
    respect to the map's mean, which makes the map a first-order approximation.

    Args:
        features: (C, H, W), the input of the global average pooling.
        derivative: (C,), the derivative of the class's logit with respect to the mean of each map.

    Returns:
        (H, W) float64; its mean is the part of the logit that comes from the maps.
    """
    return np.tensordot(derivative.astype(np.float64), features.astype(np.float64), axes=1)


def draw_activation_map(
    image: np.ndarray, evidence: np.ndarray, name: str, score: float, kind: str, path: str | os.PathLike
) -> None:
    """Draws an image as the network sees it, and again with the activation map over it.

    Args:
        image: (H, W, 3) uint8, cropped as the network sees it.
        evidence: (h, w), from `activation_map`.
        name: name of the class.
        score: its probability.
        kind: `EXACT` or `FIRST_ORDER`.
        path: the PNG file.
    """
    height, width = image.shape[:2]
    smooth = np.asarray(Image.fromarray(evidence.astype(np.float32)).resize((width, height), Image.Resampling.BICUBIC))
    limit = max(float(np.abs(evidence).max()), 1e-12)
    cells = f"{evidence.shape[1]}×{evidence.shape[0]} cells, drawn smoothly"
    with figure(path, 820, 440) as drawn:
        drawn.suptitle(f"{fitted(drawable(name, 'class'), 700, 11)}  {score:.1%}", fontsize=11)
        left, right = drawn.subplots(1, 2)
        for axes in (left, right):
            axes.imshow(image)
            axes.axis("off")
        # the image shows through where there is no evidence
        opacity = OPACITY * np.minimum(np.abs(smooth) / limit, 1)
        shown = right.imshow(smooth, cmap="bwr", vmin=-limit, vmax=limit, alpha=opacity)
        bar = drawn.colorbar(shown, ax=right, shrink=0.7)
        bar.set_label("for the class (red), against it (blue)")
        drawn.supxlabel(f"{kind}: {cells}", fontsize=8)
