"""`Global.image_size`, the option --size: one number that sets every place where the pictures' size stands."""

from __future__ import annotations

from typing import Any

from ppcls_ext.errors import PpclsExtError

SMALLEST = 32  # px; the networks halve the size five times
FIELDS = ("size", "resize_short", "resize_long", "img_size", "crop_size")


def set_picture_size(config: dict) -> None:
    """Takes `Global.image_size` out of the configuration and sets what follows from it, in place.

    These are: the crop of training pictures; in evaluation and inference the crop, and the size before it in the same
    proportion as it was (256 to 224, say); `Global.image_shape`; the sizes of `Recipe.progressive`, the largest of
    which becomes this size.

    Raises:
        PpclsExtError: it is no size, or a list of transforms has none that could be set.
    """
    settings = config.get("Global")
    if not isinstance(settings, dict) or settings.get("image_size") is None:
        return
    size = settings.pop("image_size")
    if type(size) is not int or size < SMALLEST:
        raise PpclsExtError(f"Global.image_size (--size) is {size!r}: expected a whole number of px from {SMALLEST}")
    shape = settings.get("image_shape")
    settings["image_shape"] = [shape[0] if isinstance(shape, (list, tuple)) and shape else 3, size, size]
    for path, transforms in _transforms(config):
        _scale(path, transforms, size)
    stages = (config.get("Recipe") or {}).get("progressive")
    sized = [stage for stage in stages or () if isinstance(stage, dict) and type(stage.get("size")) is int]
    largest = max((stage["size"] for stage in sized), default=0)
    for stage in sized:
        stage["size"] = max(SMALLEST, round(stage["size"] * size / largest))


def _transforms(config: dict) -> list[tuple[str, list]]:
    """The lists of transforms of all data sets and of inference, each with its path."""
    found = []

    def look(node: Any, path: str) -> None:
        if not isinstance(node, dict):
            return
        for key, value in node.items():
            if key in ("transform_ops", "transforms") and isinstance(value, list):
                found.append((f"{path}.{key}", value))
            else:
                look(value, f"{path}.{key}")

    for section in ("DataLoader", "Infer"):
        look(config.get(section), section)
    return found


def _scale(path: str, transforms: list, size: int) -> None:
    """Multiplies every size in a list so that its last, that of the network's input, becomes `size`."""
    places = [
        (options, field)
        for operator in transforms
        if isinstance(operator, dict)
        for options in operator.values()
        if isinstance(options, dict)
        for field in FIELDS
        if _sides(options.get(field))
    ]
    if not places:
        raise PpclsExtError(f"Global.image_size (--size): {path} has no size that it could set; set the sizes there")
    options, field = places[-1]
    last = max(_sides(options[field]))
    for options, field in places:
        value = options[field]
        scaled = [round(side * size / last) for side in _sides(value)]
        options[field] = scaled if isinstance(value, (list, tuple)) else scaled[0]


def _sides(value: Any) -> list[int]:
    sides = value if isinstance(value, (list, tuple)) else [value]
    return list(sides) if sides and all(type(side) is int and side > 0 for side in sides) else []
