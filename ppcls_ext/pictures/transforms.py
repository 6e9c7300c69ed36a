"""The preprocessing rule that a list of PaddleClas's operators means."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ppcls_ext.errors import PpclsExtError
from ppcls_ext.pictures.rule import IMAGENET_MEAN, IMAGENET_STD, Pair, Preprocessing

#: With no interpolation given, PaddleClas leaves the choice to the library; Pillow then takes bicubic.
DEFAULT_INTERPOLATION = {"cv2": "bilinear", "pil": "bicubic"}


def rule_from_transforms(transforms: Sequence[Any]) -> Preprocessing:
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
        raise PpclsExtError("DecodeImage.channel_first, NormalizeImage.output_fp16 and 4 channels cannot be exported")
    backend = str(resize["backend"]).lower()
    short = resize["resize_short"] or None
    return Preprocessing(
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
