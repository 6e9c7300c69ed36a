"""From a network's normalised input back to pixels, for files that crop and normalise themselves."""

from __future__ import annotations

import os

import numpy as np

from ppcls_ext.data.image_rule import RGB, Preprocessing, channels_text
from ppcls_ext.errors import PpclsExtError
from ppcls_ext.predict.metadata import Metadata

#: How far a level may be from a whole number; float32 leaves about 1e-4.
WHOLE = 0.02


def fixed_shape(path: str | os.PathLike, metadata: Metadata, takes_pixels: bool = False) -> list[int]:
    """Returns (C, H, W) of the images of a file that takes one size alone.

    Args:
        path: the file, for messages.
        metadata: its own.
        takes_pixels: whether its input are RGB pixels.

    Raises:
        PpclsExtError: the metadata say other channels, or any size.
    """
    rule = metadata.preprocessing
    if takes_pixels and rule.channels != RGB:
        raise PpclsExtError(
            f"{path}: the file takes RGB pixels, but its metadata say {channels_text(rule.channels)}: export it again"
        )
    if metadata.dynamic_size:
        raise PpclsExtError(f"{path}: the file takes images of one size, but its metadata say any: export it again")
    width, height = rule.image_size
    return [rule.channels, height, width]


def pixels_of(image: np.ndarray, rule: Preprocessing, height: int, width: int) -> np.ndarray:
    """Returns the pixels from which a network's input was made, in the middle of a black image.

    Args:
        image: (3, H, W) float32, normalised, in the rule's order of channels.
        rule: that made it.
        height: of the result; H or more.
        width: of the result; W or more.

    Returns:
        (height, width, 3) uint8, RGB.

    Raises:
        PpclsExtError: it was not made of pixels, whose levels are whole numbers.
    """
    mean, std = (np.array(values, np.float64).reshape(3, 1, 1) for values in (rule.mean, rule.std))
    levels = (image * std + mean) / rule.scale
    whole = np.rint(levels)
    if not np.abs(levels - whole).max() <= WHOLE or whole.min() < 0 or whole.max() > 255:
        raise PpclsExtError(
            "the file takes pixels, whose levels are whole numbers from 0 to 255, and got other numbers; one that was "
            "exported with --tensor-input takes any"
        )
    pixels = whole.astype(np.uint8).transpose(1, 2, 0)
    if rule.channel_order == "BGR":
        pixels = pixels[:, :, ::-1]
    # as rules round, so that a crop of the middle finds it
    top, left = (height - pixels.shape[0]) // 2, (width - pixels.shape[1]) // 2
    canvas = np.zeros((height, width, 3), np.uint8)
    canvas[top : top + pixels.shape[0], left : left + pixels.shape[1]] = pixels
    return canvas
