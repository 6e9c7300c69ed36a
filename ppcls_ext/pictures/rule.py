"""The rule by which a picture becomes the network's input."""

from __future__ import annotations

import reprlib
from dataclasses import dataclass
from typing import Any

from ppcls_ext.errors import PpclsExtError

#: What PaddleClas's operators do when the configuration does not say.
IMAGENET_MEAN = (0.485, 0.456, 0.406)


IMAGENET_STD = (0.229, 0.224, 0.225)


INTERPOLATIONS = {
    "cv2": ("nearest", "bilinear", "area", "bicubic", "lanczos"),
    "pil": ("nearest", "bilinear", "bicubic", "box", "lanczos", "hamming"),
}


Pair = tuple[int, int]
LARGEST_NUMBER = 1e30
LARGEST_SIDE = 1 << 16
LARGEST_AREA = 1 << 24
"""Pixels of the network's input, which is four times as many bytes in each of three channels."""


@dataclass(frozen=True)
class Preprocessing:
    """How PaddleClas's evaluation turns an image file into the network's input, in this order.

    Args:
        decode: the library whose reading is meant. "cv2" applies the EXIF orientation, "pil" does not.
        channel_order: "RGB" or "BGR".
        resize_short: the shorter side after resizing, px; None where `resize` is given.
        resize: (width, height) after resizing, px, whatever the image's proportions.
        interpolation: of the resizing, in PaddleClas's words.
        backend: the library whose resizing is meant: "cv2" takes no average when it shrinks, "pil" does.
        crop: (width, height) of the centre that is kept, px; None keeps all.
        scale: grey levels 0..255 are multiplied by it,
        mean: then this is subtracted, per channel,
        std: then divided by this.
    """

    decode: str = "cv2"
    channel_order: str = "RGB"
    resize_short: int | None = 256
    resize: Pair | None = None
    interpolation: str = "bilinear"
    backend: str = "cv2"
    crop: Pair | None = (224, 224)
    scale: float = 1 / 255
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD

    def __post_init__(self) -> None:
        """Raises PpclsExtError where the values make no sense, alone or together."""
        for check in (_check_words, _check_sizes, _check_numbers):
            check(self)

    @property
    def image_size(self) -> Pair:
        """(width, height) of the result, px."""
        return self.crop or self.resize


_shown = reprlib.repr  # a number from a file may have thousands of digits


def _is_number(value: Any) -> bool:
    # a comparison takes any whole number, math.isfinite only those that a float can hold
    return isinstance(value, (int, float)) and abs(value) <= LARGEST_NUMBER


def _check_words(rule: Preprocessing) -> None:
    if rule.decode not in INTERPOLATIONS or rule.backend not in INTERPOLATIONS:
        raise PpclsExtError(f"image libraries are {_shown((rule.decode, rule.backend))}: expected 'cv2' or 'pil'")
    if rule.channel_order not in ("RGB", "BGR"):
        raise PpclsExtError(f"channel order is {_shown(rule.channel_order)}: expected 'RGB' or 'BGR'")
    known = INTERPOLATIONS[rule.backend]
    if rule.interpolation not in known:
        raise PpclsExtError(f"interpolation is {_shown(rule.interpolation)}: {rule.backend} has {', '.join(known)}")


def _check_sizes(rule: Preprocessing) -> None:
    if (rule.resize_short is None) == (rule.resize is None):
        raise PpclsExtError(
            f"got resize_short={_shown(rule.resize_short)} and resize={_shown(rule.resize)}: expected one of them"
        )
    if rule.crop is None and rule.resize is None:
        raise PpclsExtError("resize_short without a crop leaves images of many sizes: crop them, or give both sides")
    for pair in (rule.resize, rule.crop, (rule.resize_short, rule.resize_short)):
        if pair not in (None, (None, None)):
            _check_pair(pair)
    before = rule.resize or (rule.resize_short, rule.resize_short)
    if rule.crop and any(crop > side for crop, side in zip(rule.crop, before)):
        raise PpclsExtError(f"the crop {rule.crop} px is larger than the resized image, {before} px")
    width, height = rule.image_size
    if width * height > LARGEST_AREA:
        raise PpclsExtError(f"the network's input is {width} × {height} px: expected at most {LARGEST_AREA:,} px")


def _check_pair(pair: Any) -> None:
    if len(pair) != 2 or not all(type(side) is int and 1 <= side <= LARGEST_SIDE for side in pair):
        raise PpclsExtError(f"an image size is {_shown(pair)}: expected whole numbers of px, 1 to {LARGEST_SIDE:,}")


def _check_numbers(rule: Preprocessing) -> None:
    numbers = (*rule.mean, *rule.std, rule.scale)
    if len(rule.mean) != 3 or len(rule.std) != 3 or not all(map(_is_number, numbers)):
        raise PpclsExtError(
            f"mean {_shown(rule.mean)}, std {_shown(rule.std)}, scale {_shown(rule.scale)}: expected 3, 3 and 1 numbers"
        )
    if 0 in rule.std:
        raise PpclsExtError(f"std is {rule.std}: expected numbers other than 0")
