"""PaddleClas's operators on images: those that decode, resize and crop."""

from __future__ import annotations

import functools
import random
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image

from ppcls_ext.data.image_files import decode
from ppcls_ext.data.image_rule import RGB
from ppcls_ext.errors import PpclsExtError
from ppcls_ext.hosts.adaptation import patch

LARGEST = 1 << 27
"""Pixels of a resized image."""


def decodes_with_opencv() -> bool:
    """Returns whether PaddleClas's DecodeImage is its own.

    OpenCV's reader fills in what is missing of some images, and accepts other formats and colours than prediction,
    which has no OpenCV: training, evaluation and prediction would see different pixels.
    """
    from ppcls.data.preprocess import DecodeImage

    return not hasattr(DecodeImage.__call__, "host")


def decode_as_prediction_does() -> None:
    """Makes PaddleClas's DecodeImage decode bytes with this project's reader; the rest stays its own work."""
    from ppcls.data.preprocess import DecodeImage

    host = DecodeImage.__call__

    @functools.wraps(host)
    def call(self: Any, img: Any) -> Any:
        backend = getattr(self, "backend", "cv2")
        if isinstance(img, bytes):
            img = _decoded(img, backend)
        elif isinstance(img, dict) and isinstance(img.get("img"), bytes):  # PaddleClas develop's other datasets
            img = {**img, "img": _decoded(img["img"], backend)}
        return host(self, img)

    vars(call)["host"] = host
    patch(DecodeImage, "__call__", call)


def _decoded(data: bytes, backend: str) -> Any:
    """Returns what the operator accepts in place of bytes: BGR pixels, or a Pillow image."""
    pixels = decode(data, backend)
    return Image.fromarray(pixels) if backend == "pil" else pixels[:, :, ::-1]


def resizes_without_bound() -> bool:
    """Returns whether PaddleClas's UnifiedResize is its own.

    An image of 1 × 60,000 px is harmless until its short side becomes 256 px, as `ResizeImage` does without asking:
    then it takes 12 GB.
    """
    from ppcls.data.preprocess.ops.operators import UnifiedResize

    return not hasattr(UnifiedResize.__call__, "bounded")


def bound_resizing() -> None:
    """Makes PaddleClas's UnifiedResize treat an image that would become too large as one that cannot be read."""
    from ppcls.data.preprocess.ops.operators import UnifiedResize

    resize = UnifiedResize.__call__

    @functools.wraps(resize)
    def resize_within_bounds(self: Any, src: Any, size: Any) -> Any:
        width, height = size
        if width * height > LARGEST:
            raise PpclsExtError(f"resized to {width} × {height} px, the image would be too large")
        if isinstance(src, np.ndarray) and src.ndim == 3 and src.shape[2] != RGB:
            return _by_channel(functools.partial(resize, self, size=size), src)
        return resize(self, src, size)

    vars(resize_within_bounds)["bounded"] = True
    patch(UnifiedResize, "__call__", resize_within_bounds)


def _by_channel(resize: Callable[[np.ndarray], Any], image: np.ndarray) -> np.ndarray:
    """Resizes (H, W, C) channel by channel: Pillow takes none but 3, or 4 of which one is alpha; cv2 drops an axis."""
    state, planes = random.getstate(), []
    for plane in np.moveaxis(image, 2, 0):
        random.setstate(state)  # PaddleClas may draw the interpolation
        planes.append(np.asarray(resize(np.ascontiguousarray(plane))))
    return np.stack(planes, axis=2)


def set_crop_size(operator: Any, size: tuple[int, int]) -> None:
    """Changes the size of an operator RandCropImage that PaddleClas has built, to (width, height), px."""
    patch(operator, "size", size)
