"""What an ONNX file says about itself: architecture, class names, how an image becomes the input.

Kept in the file's `metadata_props` as plain strings, lists and numbers as JSON, so that any ONNX runtime can read them.
This module needs no other package.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ppcls_ext.errors import PpclsExtError

SCHEMA_VERSION = "1"
#: What PaddleClas's operators do when the configuration does not say.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
INTERPOLATIONS = {
    "cv2": ("nearest", "bilinear", "area", "bicubic", "lanczos"),
    "pil": ("nearest", "bilinear", "bicubic", "box", "lanczos", "hamming"),
}
#: With no interpolation given, PaddleClas leaves the choice to the library; Pillow then takes bicubic.
DEFAULT_INTERPOLATION = {"cv2": "bilinear", "pil": "bicubic"}

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

    @classmethod
    def from_transforms(cls, transforms: Sequence[Any]) -> Preprocessing:
        """Reads a list of PaddleClas's operators, such as `Infer.transforms` or a dataset's `transform_ops`.

        Raises:
            PpclsExtError: the list holds an operator, an option or an order that these fields cannot express.
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
                "DecodeImage.channel_first, NormalizeImage.output_fp16 and 4 channels cannot be exported"
            )
        backend = str(resize["backend"]).lower()
        short = resize["resize_short"] or None
        return cls(
            decode=str(decode["backend"]).lower(),
            # an image that stays Pillow's is RGB whatever to_rgb says
            channel_order="RGB" if decode["to_rgb"] or not decode["to_np"] else "BGR",
            resize_short=short,
            resize=None if short else _pair(resize["size"]),
            interpolation=str(resize["interpolation"] or DEFAULT_INTERPOLATION.get(backend)).lower(),
            backend=backend,
            crop=_pair(crop["size"]),
            scale=1 / 255 if normalize["scale"] is None else parse_scale(normalize["scale"]),
            mean=_numbers(normalize["mean"], IMAGENET_MEAN),
            std=_numbers(normalize["std"], IMAGENET_STD),
        )


@dataclass(frozen=True)
class Metadata:
    """What the file says.

    Args:
        architecture: the factory's name, such as "MobileOne_S0".
        preprocessing: from image file to input.
        class_names: by class index; None where unknown, "" for an index without a name.
    """

    architecture: str
    preprocessing: Preprocessing
    class_names: tuple[str, ...] | None = None

    def to_properties(self) -> dict[str, str]:
        """As strings for `metadata_props`; `from_properties` is its inverse."""
        width, height = self.preprocessing.image_size
        properties = {
            "schema_version": SCHEMA_VERSION,
            "architecture": self.architecture,
            "input_size": json.dumps([3, height, width]),
            "preprocessing": json.dumps(dataclasses.asdict(self.preprocessing)),
        }
        if self.class_names is not None:
            properties["class_names"] = json.dumps(self.class_names, ensure_ascii=False)
        return properties

    @classmethod
    def from_properties(cls, properties: Mapping[str, str]) -> Metadata:
        """Reads what `to_properties` wrote; other keys are left alone.

        Raises:
            PpclsExtError: the properties are missing, of another schema, or damaged.
        """
        version = properties.get("schema_version")
        if version is None or "preprocessing" not in properties:
            raise PpclsExtError("the file does not say how to prepare its images: export it with tools/export_onnx.py")
        if version != SCHEMA_VERSION:
            raise PpclsExtError(
                f"the file's metadata have schema {version}, expected {SCHEMA_VERSION}: update ppcls_ext"
            )
        try:
            fields = {
                key: tuple(value) if isinstance(value, list) else value
                for key, value in json.loads(properties["preprocessing"]).items()
            }
            names = json.loads(properties["class_names"]) if "class_names" in properties else None
            if names is not None and not (isinstance(names, list) and all(isinstance(name, str) for name in names)):
                raise TypeError("class_names is no list of strings")
            return cls(
                architecture=properties["architecture"],
                preprocessing=Preprocessing(**fields),
                class_names=None if names is None else tuple(names),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise PpclsExtError(f"the file's metadata are damaged ({error}): export it again") from error


def read_class_names(path: str | os.PathLike, delimiter: str = " ") -> tuple[str, ...]:
    """Reads PaddleClas's `class_id_map_file`: one "index name" per line, UTF-8.

    Returns:
        Names by index; "" for an index that the file leaves out.

    Raises:
        PpclsExtError: the file cannot be read, or a line is no index and name; names the line.
    """
    names = {}
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8"
        raise PpclsExtError(
            f"cannot read the class names {path}: {reason}; mend Infer.PostProcess.class_id_map_file, or set it to null"
        ) from error
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        index, _, name = line.partition(delimiter)
        if not re.fullmatch(r"\d{1,6}", index) or int(index) in names:
            raise PpclsExtError(f"{path}:{number}: got {line!r}, expected a new class index, {delimiter!r} and a name")
        names[int(index)] = name.strip()
    return tuple(names.get(index, "") for index in range(max(names, default=-1) + 1))


def parse_scale(scale: float | str) -> float:
    """The number that PaddleClas's `NormalizeImage.scale` means: 0.5, "0.5", or a quotient such as "1.0/255.0"."""
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
    unknown = sorted(set(steps.get(name, {})) - set(defaults))
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


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)
