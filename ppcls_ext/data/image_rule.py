"""The rule by which an image becomes the network's input, and how PaddleClas's operators express it."""

from __future__ import annotations

import dataclasses
import re
import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ppcls_ext.errors import PpclsExtError

#: The defaults of PaddleClas's operators.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
INTERPOLATIONS = {
    "cv2": ("nearest", "bilinear", "area", "bicubic", "lanczos"),
    "pil": ("nearest", "bilinear", "bicubic", "box", "lanczos", "hamming"),
}
Pair = tuple[int, int]
STRIDE = 32
"""Pixels of the image for a pixel of the last maps."""
RGB = 3
"""Channels of an image, where nothing else is said."""
MOST_CHANNELS = 128
"""What OpenCV 5 takes."""
LARGEST_NUMBER = 1e30
LARGEST_SIDE = 1 << 16
LARGEST_AREA = 1 << 24
"""Pixels of the network's input, which takes four bytes for each of three channels; fewer of more channels."""


def require_channels(channels: Any, what: str) -> None:
    """Raises PpclsExtError, which begins with `what` and the value, where it is no number of channels of an image."""
    if type(channels) is not int or not 1 <= channels <= MOST_CHANNELS:
        raise PpclsExtError(f"{what} {_shown(channels)}: expected a whole number of channels, 1 to {MOST_CHANNELS}")


def read_size(value: Any) -> Pair | None:
    """Returns (height, width) of a size: 128, "128", "128x96" or a pair, height first; None of anything else, or of 0.

    A size is a whole number of px from 1 to `LARGEST_SIDE`.
    """
    if isinstance(value, str):
        parts = value.strip().lower().replace("×", "x").split("x")
        value = [int(part) for part in parts] if all(re.fullmatch("[0-9]{1,5}", part) for part in parts) else None
        value = value[0] if value is not None and len(value) == 1 else value
    pair = tuple(value) if isinstance(value, (list, tuple)) else (value, value)
    if len(pair) != 2 or not all(type(side) is int and 1 <= side <= LARGEST_SIDE for side in pair):
        return None
    return pair


def size_text(height: int, width: int) -> str:
    """Returns the shortest text that `read_size` reads as this size."""
    return str(height) if height == width else f"{height}x{width}"


def channels_text(channels: int) -> str:
    """Returns "1 channel", "4 channels"."""
    return f"{channels} channel{'s' * (channels > 1)}"


SIZE = "px, or HEIGHTxWIDTH such as 128x96"


def for_channels(numbers: Sequence[float], channels: int) -> tuple[float, ...]:
    """Returns a mean or std of RGB for images of other channels: of one their mean, of more each in turn."""
    if channels == 1:
        return (round(sum(numbers) / len(numbers), 6),)
    return tuple(numbers[index % len(numbers)] for index in range(channels))


@dataclass(frozen=True)
class Preprocessing:
    """The steps by which PaddleClas's evaluation turns an image file into the network's input, in their order.

    Args:
        decode: the library whose decoding is reproduced: "cv2" applies the EXIF orientation, "pil" does not.
        channel_order: "RGB" or "BGR", which is for 3 channels.
        resize_short: the shorter side after resizing, px; None if `resize` is given.
        resize: (width, height) after resizing, px, whatever the image's proportions.
        interpolation: the interpolation of the resizing, in PaddleClas's words.
        backend: the library whose resizing is reproduced: "pil" averages when it shrinks an image, "cv2" does not.
        crop: (width, height) of the centre crop, px; None keeps the whole image.
        scale: factor that grey levels 0..255 are multiplied by.
        mean: subtracted afterwards, per channel; ImageNet's becomes that of other channels by `for_channels`.
        std: divisor afterwards, per channel; as `mean`.
        channels: of the image and of the input: 1 grey, 2 grey and alpha, 3 RGB, 4 RGB and alpha or a fourth band, or
            any number of bands of a TIFF file or an array.
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
    channels: int = RGB

    def __post_init__(self) -> None:
        """Raises PpclsExtError if a value is invalid; a single mean or std counts for all channels."""
        require_channels(self.channels, "channels is")
        for name, default in (("mean", IMAGENET_MEAN), ("std", IMAGENET_STD)):
            value = getattr(self, name)
            if isinstance(value, (int, float)) and not isinstance(value, bool):
                object.__setattr__(self, name, (value,) * self.channels)
            elif not isinstance(value, (tuple, list)):
                raise PpclsExtError(
                    f"{name} is {_shown(value)}: expected {self.channels} numbers, or one for all channels"
                )
            elif tuple(value) == default and self.channels != RGB:
                object.__setattr__(self, name, for_channels(default, self.channels))
        for check in (_check_words, _check_sizes, _check_numbers):
            check(self)

    @property
    def image_size(self) -> Pair:
        """(width, height) of the result, px."""
        size = self.crop or self.resize
        assert size is not None, "checked by _check_sizes"
        return size

    def whole(self, height: int, width: int) -> Preprocessing:
        """Returns the rule for an image of `height` × `width` px that keeps its proportions and all of it.

        Its shorter side becomes what it was before the crop; both sides become multiples of `STRIDE`.

        Raises:
            PpclsExtError: the result would be too large.
        """
        short = self.resize_short or min(self.resize or self.image_size)
        factor = short / min(height, width)
        w, h = (max(1, round(side * factor / STRIDE)) * STRIDE for side in (width, height))
        return dataclasses.replace(self, resize_short=None, resize=(w, h), crop=None)

    def of_size(self, height: int, width: int) -> Preprocessing:
        """Returns the rule that makes images of this size, cut to the same share of the resized image."""
        if (width, height) == self.image_size:
            return self
        before = self.resize or (self.resize_short or 0,) * 2
        w, h = (round(side * new / old) for side, new, old in zip(before, (width, height), self.image_size))
        if self.resize_short is not None and height == width and self.image_size[0] == self.image_size[1]:
            return dataclasses.replace(self, resize_short=w, crop=(width, height))
        return dataclasses.replace(self, resize_short=None, resize=(w, h), crop=self.crop and (width, height))

    def to_json(self) -> dict[str, Any]:
        """Returns the fields for a file; of 3 channels without `channels`, which earlier versions did not know."""
        fields = dataclasses.asdict(self)
        if self.channels == RGB:
            del fields["channels"]
        return fields


_shown = reprlib.repr  # a number from a file may have thousands of digits


def _is_number(value: Any) -> bool:
    # a comparison takes any whole number, math.isfinite only those that a float can hold
    return isinstance(value, (int, float)) and abs(value) <= LARGEST_NUMBER


def _check_words(rule: Preprocessing) -> None:
    if rule.decode not in INTERPOLATIONS or rule.backend not in INTERPOLATIONS:
        raise PpclsExtError(f"image libraries are {_shown((rule.decode, rule.backend))}: expected 'cv2' or 'pil'")
    if rule.channel_order not in ("RGB", "BGR"):
        raise PpclsExtError(f"channel order is {_shown(rule.channel_order)}: expected 'RGB' or 'BGR'")
    if rule.channel_order == "BGR" and rule.channels != RGB:
        raise PpclsExtError(f"channel order BGR is for {RGB} channels, and there are {rule.channels}: expected RGB")
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
    short = None if rule.resize_short is None else (rule.resize_short, rule.resize_short)
    for pair in (rule.resize, rule.crop, short):
        if pair is not None:
            _check_pair(pair)
    before = rule.resize or short
    if rule.crop and before and any(crop > side for crop, side in zip(rule.crop, before)):
        raise PpclsExtError(f"the crop {rule.crop} px is larger than the resized image, {before} px")
    width, height = rule.image_size
    most = LARGEST_AREA * RGB // max(RGB, rule.channels)
    if width * height > most:
        raise PpclsExtError(f"the network's input is {width} × {height} px: expected at most {most:,} px")


def _check_pair(pair: Any) -> None:
    if len(pair) != 2 or not all(type(side) is int and 1 <= side <= LARGEST_SIDE for side in pair):
        raise PpclsExtError(f"an image size is {_shown(pair)}: expected whole numbers of px, 1 to {LARGEST_SIDE:,}")


def _check_numbers(rule: Preprocessing) -> None:
    numbers = (*rule.mean, *rule.std, rule.scale)
    count = rule.channels
    if len(rule.mean) != count or len(rule.std) != count or not all(map(_is_number, numbers)):
        raise PpclsExtError(
            f"mean {_shown(rule.mean)}, std {_shown(rule.std)}, scale {_shown(rule.scale)}: expected {count}, {count} "
            "and 1 numbers"
        )
    if 0 in rule.std:
        raise PpclsExtError(f"std is {rule.std}: expected numbers other than 0")


#: PaddleClas's operators that make an image of a given size of any other.
RANDOM_CROPS = ("RandCropImage", "RandCropImageV2")
#: PaddleClas's operators that leave the size of an image as it is.
KEEPS_SIZE = ("DecodeImage", "NormalizeImage", "ToCHWImage", "RandFlipImage", "RandomErasing", "CropImage")
#: Without an interpolation PaddleClas leaves the choice to the library, and Pillow's is bicubic.
DEFAULT_INTERPOLATION = {"cv2": "bilinear", "pil": "bicubic"}


def rule_from_transforms(transforms: Sequence[Any], channels: int = RGB) -> Preprocessing:
    """Reads a list of PaddleClas's operators, such as `Infer.transforms` or a dataset's `transform_ops`.

    Args:
        transforms: the list.
        channels: of the images; the operators do not tell.

    Raises:
        PpclsExtError: the list contains an operator, an option or an order that `Preprocessing` cannot express.
    """
    steps = dict(_parse_operator(operator) for operator in transforms)
    if len(steps) != len(transforms) or tuple(steps) not in _ORDERS:
        raise PpclsExtError(
            f"the evaluation transforms are {', '.join(name for name, _ in map(_parse_operator, transforms))}: "
            "ONNX metadata describes DecodeImage, ResizeImage, CropImage (optional), NormalizeImage, ToCHWImage"
        )
    decode = _options(steps, "DecodeImage", to_rgb=True, channel_first=False, to_np=True, backend="cv2")
    resize = _options(
        steps, "ResizeImage", size=None, resize_short=None, interpolation=None, backend="cv2", return_numpy=True
    )
    crop = _options(steps, "CropImage", size=None)
    normalize = _options(
        steps, "NormalizeImage", scale=None, mean=None, std=None, order="chw", output_fp16=False, channel_num=3
    )
    channels_first = tuple(steps).index("ToCHWImage") < tuple(steps).index("NormalizeImage")
    if (normalize["order"] == "chw") != channels_first:
        raise PpclsExtError(
            f"NormalizeImage's order is {normalize['order']!r} but ToCHWImage comes "
            f"{'before' if channels_first else 'after'} it: the mean would be taken along the wrong axis"
        )
    if decode["channel_first"] or normalize["output_fp16"] or normalize["channel_num"] != 3:
        raise PpclsExtError(
            "DecodeImage.channel_first, NormalizeImage.output_fp16 and NormalizeImage.channel_num, which appends "
            "zeros, cannot be exported"
        )
    backend = str(resize["backend"]).lower()
    short = resize["resize_short"] or None
    return Preprocessing(
        decode=str(decode["backend"]).lower(),
        # an image that remains a Pillow image is RGB whatever to_rgb says
        channel_order="RGB" if decode["to_rgb"] or not decode["to_np"] or channels != RGB else "BGR",
        resize_short=short,
        resize=None if short else _pair(resize["size"]),
        interpolation=str(resize["interpolation"] or DEFAULT_INTERPOLATION.get(backend)).lower(),
        backend=backend,
        crop=_pair(crop["size"]),
        scale=1 / 255 if normalize["scale"] is None else parse_scale(normalize["scale"]),
        mean=_numbers(normalize["mean"], IMAGENET_MEAN),
        std=_numbers(normalize["std"], IMAGENET_STD),
        channels=channels,
    )


def crop_fault(transforms: Sequence[Any]) -> str | None:
    """Returns what is wrong where PaddleClas's operators crop more than they have resized an image to, else None."""
    resized: tuple[int, int] | None = None
    for name, options in map(_parse_operator, transforms):
        size = options.get("resize_short") or options.get("size")
        pair = _pair(size)
        if pair is not None and not all(type(side) is int for side in pair):
            pair = None
        if name == "ResizeImage" or name in RANDOM_CROPS:
            resized = pair
        elif name == "CropImage" and pair and resized and any(map(int.__gt__, pair, resized)):
            wanted, there = (f"{width} × {height} px" for width, height in (pair, resized))
            return f"CropImage takes {wanted} of an image of {there}: lower its size, or resize to more"
        elif name not in KEEPS_SIZE:
            resized = None
    return None


def parse_scale(scale: float | str) -> float:
    """Returns the value of PaddleClas's `NormalizeImage.scale`: 0.5, "0.5", or a quotient such as "1.0/255.0"."""
    try:
        above, _, below = str(scale).partition("/")
        return float(above) / float(below or 1)
    except (ValueError, ZeroDivisionError) as error:
        raise PpclsExtError(f"NormalizeImage.scale is {scale!r}: expected a number or a quotient, 1.0/255.0") from error


_STEPS = ("DecodeImage", "ResizeImage", "CropImage")
_ORDERS = tuple(
    start + end
    for start in (_STEPS, _STEPS[:2])
    for end in (("NormalizeImage", "ToCHWImage"), ("ToCHWImage", "NormalizeImage"))
)


def _parse_operator(operator: Any) -> tuple[str, dict]:
    if isinstance(operator, str):
        return operator, {}
    if isinstance(operator, Mapping) and len(operator) == 1:
        name, options = next(iter(operator.items()))
        if options is None or isinstance(options, Mapping):
            return str(name), dict(options or {})
    raise PpclsExtError(f"a transform is {operator!r}: expected one operator's name and its options")


def _options(steps: Mapping[str, dict], name: str, **defaults: Any) -> dict[str, Any]:
    unknown = sorted(map(str, set(steps.get(name, {})) - set(defaults)))
    if unknown:
        raise PpclsExtError(f"{name} has the options {', '.join(unknown)}, which ONNX metadata cannot describe")
    return {**defaults, **steps.get(name, {})}


def _pair(size: Any) -> Pair | None:
    if isinstance(size, (list, tuple)) and len(size) == 2:
        return tuple(size)
    return None if size is None else (size, size)


def _numbers(values: Any, default: tuple[float, ...]) -> tuple[float, ...]:
    if values is None:
        return default
    return tuple(values) if isinstance(values, (list, tuple)) else (values,)
