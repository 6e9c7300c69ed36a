"""From a picture to the network's input, as PaddleClas's evaluation does it, with NumPy and Pillow alone.

Decoding follows `cv2.imdecode(data, 1)`, resizing `cv2.resize` or Pillow's, whichever the model was evaluated with:
the two differ by whole grey levels (Pillow averages when it shrinks, OpenCV does not).
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Union

import numpy as np
from PIL import Image

from ppcls_ext.errors import PpclsExtError
from ppcls_ext.pictures.decoding import decode, pixels, read_picture
from ppcls_ext.pictures.resizing import resize_and_crop
from ppcls_ext.pictures.rule import Preprocessing

#: What Python callers may give: a path, Pillow's image, or the pixels as uint8 (H, W, 3), RGB.
Picture = Union[str, os.PathLike, Image.Image, np.ndarray]


def prepare(path: Path, rule: Preprocessing) -> np.ndarray:
    """Reads an image and makes it the network's input.

    Returns:
        float32 (3, H, W).

    Raises:
        PpclsExtError: the file cannot be read, or is no image; names the file.
    """
    try:
        return _to_input(decode(read_picture(path), rule.decode), rule)
    except OSError as error:
        raise PpclsExtError(f"{path}: {error.strerror or error}") from error
    except PpclsExtError as error:
        raise PpclsExtError(f"{path}: {error}") from error


def prepare_picture(picture: Picture, rule: Preprocessing) -> np.ndarray:
    """Makes a picture in any form the network's input.

    Returns:
        float32 (3, H, W).

    Raises:
        PpclsExtError: a path that cannot be read or is no image, or an array of another type or shape.
    """
    if isinstance(picture, (str, os.PathLike)):
        return prepare(Path(picture), rule)
    if isinstance(picture, Image.Image):
        return _to_input(pixels(picture, rule.decode), rule)
    if not isinstance(picture, np.ndarray):
        raise PpclsExtError(f"got a {type(picture).__name__}: expected a path, a Pillow image or an array (H, W, 3)")
    if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3 or 0 in picture.shape:
        raise PpclsExtError(f"got an array {picture.dtype} {picture.shape}: expected uint8 (H, W, 3), RGB")
    return _to_input(picture, rule)


def _to_input(image: np.ndarray, rule: Preprocessing) -> np.ndarray:
    """`image: uint8 (H, W, 3)`, RGB → float32 (3, H, W)."""
    image = resize_and_crop(image, rule)
    if rule.channel_order == "BGR":
        image = image[:, :, ::-1]
    # in float32 and in PaddleClas's order, so that the last bit agrees
    image = (image.astype(np.float32) * np.float32(rule.scale) - np.float32(rule.mean)) / np.float32(rule.std)
    return image.transpose(2, 0, 1)
