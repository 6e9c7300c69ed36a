"""From an image file to the network's input, as PaddleClas's evaluation does it, with NumPy and Pillow alone.

Decoding follows `cv2.imdecode(data, 1)`, resizing `cv2.resize` or Pillow's, whichever the model was evaluated with:
the two differ by whole grey levels (Pillow averages when it shrinks, OpenCV does not).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ppcls_ext.errors import PpclsExtError
from ppcls_ext.pictures.decoding import decode
from ppcls_ext.pictures.resizing import resize_and_crop
from ppcls_ext.pictures.rule import Preprocessing


def prepare(path: Path, rule: Preprocessing) -> np.ndarray:
    """Reads an image and makes it the network's input.

    Returns:
        float32 (3, H, W).

    Raises:
        PpclsExtError: the file cannot be read, or is no image; names the file.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise PpclsExtError(f"{path}: {error.strerror or error}") from error
    try:
        image = resize_and_crop(decode(data, rule.decode), rule)
    except PpclsExtError as error:
        raise PpclsExtError(f"{path}: {error}") from error
    if rule.channel_order == "BGR":
        image = image[:, :, ::-1]
    # in float32 and in PaddleClas's order, so that the last bit agrees
    image = (image.astype(np.float32) * np.float32(rule.scale) - np.float32(rule.mean)) / np.float32(rule.std)
    return image.transpose(2, 0, 1)
