"""Resizing as OpenCV or Pillow does it, with NumPy and Pillow alone."""

from __future__ import annotations

import numpy as np
from PIL import Image

from ppcls_ext.errors import PpclsExtError
from ppcls_ext.pictures.rule import Pair, Preprocessing


def resize_and_crop(image: np.ndarray, rule: Preprocessing) -> np.ndarray:
    """Resizes and keeps the centre: `image: (H, W, 3)` uint8 → (height, width, 3) uint8."""
    height, width = image.shape[:2]
    if rule.resize is not None:
        size = rule.resize
    else:
        # PaddleClas's own expression: a quotient first, Python's rounding to even
        factor = float(rule.resize_short) / min(width, height)
        size = round(width * factor), round(height * factor)
    crop = rule.crop or size
    left, top = (size[0] - crop[0]) // 2, (size[1] - crop[1]) // 2
    if rule.backend == "cv2":
        columns, rows = range(left, left + crop[0]), range(top, top + crop[1])
        return resize_as_opencv(image, size, rule.interpolation, columns, rows)
    if size[0] * size[1] > (Image.MAX_IMAGE_PIXELS or np.inf):
        raise PpclsExtError(f"a {width} × {height} px image would become {size[0]} × {size[1]} px: too large")
    resized = Image.fromarray(image).resize(size, getattr(Image.Resampling, rule.interpolation.upper()))
    return np.asarray(resized)[top : top + crop[1], left : left + crop[0]]


def resize_as_opencv(
    image: np.ndarray,
    size: Pair,
    interpolation: str = "bilinear",
    columns: range | None = None,
    rows: range | None = None,
) -> np.ndarray:
    """`cv2.resize(image, size)` and a cut-out of it, computing only what is kept.

    Args:
        image: (H, W, 3) uint8.
        size: (width, height) of the whole resized image, px.
        interpolation: "bilinear" is the only one written here.
        columns: the columns to keep; None keeps all.
        rows: the rows to keep; None keeps all.

    Returns:
        uint8 (rows, columns, 3), as OpenCV computes it: with weights of 11 bits, dropping bits between the horizontal
        and the vertical pass. Compared with OpenCV 5.0 on x86, bit by bit.
    """
    if interpolation != "bilinear":
        raise PpclsExtError(
            f"the model was evaluated with OpenCV's {interpolation} resizing, of which only bilinear is written here: "
            "evaluate and export it with ResizeImage's backend: pil"
        )
    height, width, channels = image.shape
    left, right, towards_left, towards_right = _neighbours(width, size[0], columns)
    # at the border OpenCV gives one column all the weight, but mixes a row with itself
    inside = (left >= 0) & (right < width)
    towards_left, towards_right = np.where(inside, (towards_left, towards_right), ((2048,), (0,)))
    above, below, towards_above, towards_below = _neighbours(height, size[1], rows)
    used, index = np.unique(np.clip([above, below], 0, height - 1), return_inverse=True)
    above, below = index.reshape(2, -1)

    # columns and channels as one axis: NumPy is quick on long rows
    source = image[used].reshape(len(used), -1).astype(np.int32)
    left, right = (
        (side.clip(0, width - 1)[:, None] * channels + np.arange(channels)).ravel() for side in (left, right)
    )
    passed = source.take(left, axis=1) * np.repeat(towards_left, channels)
    passed += source.take(right, axis=1) * np.repeat(towards_right, channels)
    passed >>= 4
    result = passed.take(above, axis=0) * towards_above[:, None] >> 16
    result += passed.take(below, axis=0) * towards_below[:, None] >> 16
    return ((result + 2) >> 2).astype(np.uint8).reshape(len(above), -1, channels)


def _neighbours(source: int, target: int, kept: range | None) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The two source pixels beside each target pixel's centre (they may lie outside), and their weights of 11 bits."""
    pixels = np.arange(target) if kept is None else np.arange(kept.start, kept.stop)
    position = ((pixels + 0.5) * (1 / (target / source)) - 0.5).astype(np.float32)
    first = np.floor(position).astype(np.int32)
    second_weight = position - first.astype(np.float32)
    weights = [np.rint(weight * np.float32(2048)).astype(np.int32) for weight in (1 - second_weight, second_weight)]
    return first, first + 1, weights[0], weights[1]
