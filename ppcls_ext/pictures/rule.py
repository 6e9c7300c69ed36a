"""The rule by which a picture becomes the network's input."""

from __future__ import annotations

import math
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
        """Raises PpclsExtError where the values make no sense together."""
        if self.decode not in INTERPOLATIONS or self.backend not in INTERPOLATIONS:
            raise PpclsExtError(f"image libraries are {self.decode!r} and {self.backend!r}: expected 'cv2' or 'pil'")
        if self.channel_order not in ("RGB", "BGR"):
            raise PpclsExtError(f"channel order is {self.channel_order!r}: expected 'RGB' or 'BGR'")
        if self.interpolation not in INTERPOLATIONS[self.backend]:
            raise PpclsExtError(
                f"interpolation is {self.interpolation!r}: {self.backend} has {', '.join(INTERPOLATIONS[self.backend])}"
            )
        if (self.resize_short is None) == (self.resize is None):
            raise PpclsExtError(f"got resize_short={self.resize_short} and resize={self.resize}: expected one of them")
        sizes = [self.resize_short] if self.resize is None else list(self.resize)
        for size in [*sizes, *(self.crop or ())]:
            if type(size) is not int or size < 1:
                raise PpclsExtError(f"an image size is {size!r}: expected a whole number of px")
        if self.crop is None and self.resize is None:
            raise PpclsExtError(
                "resize_short without a crop leaves images of many sizes: crop them, or give both sides"
            )
        if self.crop and any(crop > side for crop, side in zip(self.crop, self.resize or [self.resize_short] * 2)):
            raise PpclsExtError(f"the crop {self.crop} px is larger than the resized image, {self.resize or sizes} px")
        if len(self.mean) != 3 or len(self.std) != 3 or not all(map(_is_number, (*self.mean, *self.std, self.scale))):
            raise PpclsExtError(f"mean {self.mean}, std {self.std}, scale {self.scale}: expected 3, 3 and 1 numbers")
        if 0 in self.std:
            raise PpclsExtError(f"std is {self.std}: expected numbers other than 0")

    @property
    def image_size(self) -> Pair:
        """(width, height) of the result, px."""
        return self.crop or self.resize


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)
