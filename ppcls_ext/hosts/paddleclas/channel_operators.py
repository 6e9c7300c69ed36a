"""Operators on images of other channels than RGB, in the place of PaddleClas's that are written for three.

PaddleClas's DecodeImage makes three channels of every image, NormalizeImage takes three numbers, RandFlipImage drops
the axis of a single channel (cv2.flip), and ColorJitter goes through Pillow's RGB.
"""

from __future__ import annotations

import functools
import logging
import random
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ppcls_ext.data.image_files import decode
from ppcls_ext.data.image_rule import parse_scale
from ppcls_ext.errors import PpclsExtError
from ppcls_ext.hosts.paddleclas.registry import publish

logger = logging.getLogger("ppcls_ext")

#: PaddleClas's operators that do as they should with any number of channels.
KNOWN = ("ResizeImage", "CropImage", "RandCropImage", "RandCropImageV2", "RandomCropImage", "ToCHWImage")


class DecodeChannels:
    """DecodeImage, to so many channels.

    Args:
        channels: of the result.
        backend: see `decode`.
    """

    def __init__(self, channels: int, backend: str = "cv2") -> None:
        self.channels, self.backend = channels, str(backend).lower()

    def __call__(self, image: Any) -> Any:
        """The bytes of a file → uint8 (H, W, channels); pixels stay as they are."""
        return decode(image, self.backend, self.channels) if isinstance(image, bytes) else image


class NormalizeChannels:
    """NormalizeImage, with the numbers of each channel; in float32 and PaddleClas's order, to the last bit.

    Args:
        channels: of the image.
        mean: subtracted, one number or one for each channel.
        std: divisor, as `mean`.
        scale: multiplies first.
        order: "chw" where the channels come first.
    """

    def __init__(
        self, channels: int, mean: Any, std: Any, scale: float | str | None = None, order: str = "chw"
    ) -> None:
        shape = (channels, 1, 1) if order == "chw" else (1, 1, channels)
        self.scale = np.float32(1.0 / 255.0 if scale is None else parse_scale(scale))
        self.mean, self.std = (
            np.broadcast_to(np.asarray(values, np.float32), channels).reshape(shape) for values in (mean, std)
        )

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """An image of any numbers → float32 of the same shape."""
        return (image.astype(np.float32) * self.scale - self.mean) / self.std


class JitterChannels:
    """ColorJitter's brightness and contrast, the same for all channels.

    Args:
        prob: how often; PaddleClas's default is always.
        brightness: the factor is from 1 - brightness to 1 + brightness, or from a pair.
        contrast: as `brightness`, about the mean of each channel.
    """

    def __init__(self, prob: float = 2, brightness: Any = 0, contrast: Any = 0) -> None:
        self.prob = prob
        self.brightness, self.contrast = (
            tuple(value) if isinstance(value, (list, tuple)) else (max(0.0, 1 - value), 1 + value)
            for value in (brightness, contrast)
        )

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """uint8 (H, W, C) → the same."""
        if np.random.random() >= self.prob:
            return image
        levels = image.astype(np.float32) * np.float32(random.uniform(*self.brightness))
        mean = levels.mean(axis=(0, 1), keepdims=True)
        levels = (levels - mean) * np.float32(random.uniform(*self.contrast)) + mean
        return np.rint(levels).clip(0, 255).astype(np.uint8)


@functools.cache
def _flip() -> type:
    from ppcls.data.preprocess import RandFlipImage

    class FlipChannels(RandFlipImage):
        """RandFlipImage that keeps the axis of the channels."""

        def __call__(self, image: np.ndarray) -> np.ndarray:
            """(H, W, C) → the same."""
            return super().__call__(image).reshape(image.shape)

    return FlipChannels


def with_channels(transforms: Sequence[Mapping[str, Any]], channels: int, where: str) -> list[dict[str, Any]]:
    """Returns a list of transforms for images of so many channels, and makes its operators known to PaddleClas.

    Args:
        transforms: names of PaddleClas's operators with their options, checked, with numbers for `channels`.
        channels: another number than 3.
        where: the path of the list in the configuration.

    Raises:
        PpclsExtError: an operator, or an option of one, that is for three channels.
    """
    for kind in (DecodeChannels, NormalizeChannels, JitterChannels, _flip()):
        publish(kind, "preprocess")
    return [
        _with_channels(name, dict(options or {}), channels, f"{where}.{index}.{name}")
        for index, operator in enumerate(transforms)
        for name, options in operator.items()
    ]


def _with_channels(name: str, options: dict[str, Any], channels: int, where: str) -> dict[str, Any]:
    if name in KNOWN:
        return {name: options}
    if name == "RandFlipImage":
        return {"FlipChannels": options}
    if name == "DecodeImage":
        if options.get("channel_first"):
            raise PpclsExtError(f"{where}.channel_first is for 3 channels, and there are {channels}: set it to false")
        return {"DecodeChannels": {"channels": channels, "backend": options.get("backend", "cv2")}}
    if name == "NormalizeImage":
        if options.get("output_fp16") or options.get("channel_num", 3) not in (3, channels):
            raise PpclsExtError(f"{where} has output_fp16 or channel_num, which are for 3 channels: remove them")
        kept = {field: options[field] for field in ("mean", "std", "scale", "order") if field in options}
        return {"NormalizeChannels": {"channels": channels, **kept}}
    if name == "ColorJitter":
        if options.get("saturation") or options.get("hue"):
            logger.info("%s varies brightness and contrast alone: saturation and hue are of RGB", where)
        varied = {field: options[field] for field in ("prob", "brightness", "contrast") if field in options}
        return {"JitterChannels": varied}
    raise PpclsExtError(
        f"{where} is for RGB, and Arch.in_channels is {channels}: take it out of the list; those for any number of "
        f"channels are DecodeImage, {', '.join(KNOWN)}, RandFlipImage, ColorJitter and NormalizeImage"
    )
