"""inference.yml, the metadata of an exported Paddle program in the form that PaddleX reads."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from ppcls_ext.bounded_yaml import load_yaml
from ppcls_ext.data.image_rule import Preprocessing
from ppcls_ext.errors import PpclsExtError, one_line
from ppcls_ext.files import read_regular
from ppcls_ext.predict.metadata import Metadata

NAME = "inference.yml"
LARGEST = 1 << 24  # bytes
#: PaddleX's names of the interpolations, by library.
WORDS = {
    "cv2": {"nearest": "NEAREST", "bilinear": "LINEAR", "bicubic": "BICUBIC", "area": "AREA", "lanczos": "LANCZOS4"},
    "pil": {"nearest": "NEAREST", "bilinear": "BILINEAR", "bicubic": "BICUBIC", "box": "BOX", "lanczos": "LANCZOS"},
}


def paddlex_name(architecture: str) -> str:
    """Returns PaddleX's name of a model, such as FasterNet-T0."""
    return architecture.replace("_", "-") if architecture.startswith("FasterNet_") else architecture


def to_inference_yml(metadata: Metadata, topk: int = 5) -> str:
    """Returns the text of the file.

    Args:
        metadata: of the exported model.
        topk: number of classes that PaddleX prints.

    Raises:
        PpclsExtError: PaddleX cannot prepare images like this.
    """
    rule = metadata.preprocessing
    word = WORDS[rule.backend].get(rule.interpolation)
    if rule.decode != "cv2" or rule.channel_order != "RGB" or word is None:
        raise PpclsExtError(
            f"PaddleX has no images decoded by {rule.decode} in {rule.channel_order}, resized {rule.interpolation} "
            f"by {rule.backend}: it decodes with cv2, in RGB"
        )
    size = {"resize_short": rule.resize_short} if rule.resize is None else {"size": list(rule.resize)}
    steps: list[dict[str, Any]] = [{"ResizeImage": {**size, "interpolation": word, "backend": rule.backend}}]
    if rule.crop is not None:
        steps.append({"CropImage": {"size": list(rule.crop)}})
    numbers = {"scale": rule.scale, "mean": list(rule.mean), "std": list(rule.std), "order": "", "channel_num": 3}
    steps += [{"NormalizeImage": numbers}, {"ToCHWImage": None}]
    post: dict[str, Any] = {"topk": topk}
    if metadata.class_names is not None:
        post["label_list"] = list(metadata.class_names)
    said = {
        "Global": {"model_name": paddlex_name(metadata.architecture)},
        "PreProcess": {"transform_ops": steps},
        "PostProcess": {"Topk": post},
    }
    return yaml.safe_dump(said, sort_keys=False, allow_unicode=True)


def read_inference_yml(path: Path) -> Metadata:
    """Reads the metadata from the file.

    Raises:
        PpclsExtError: the file is missing, or not as `to_inference_yml` writes it.
    """
    try:
        said = load_yaml(read_regular(path, LARGEST).decode("utf-8"))
        steps = {name: options for step in said["PreProcess"]["transform_ops"] for name, options in step.items()}
        resize, normalize = steps["ResizeImage"], steps["NormalizeImage"]
        backend = resize.get("backend", "cv2")
        words = {word: name for name, word in WORDS[backend].items()}
        names = said["PostProcess"]["Topk"].get("label_list")
        rule = Preprocessing(
            resize_short=resize.get("resize_short"),
            resize=_pair(resize.get("size")),
            interpolation=words[resize.get("interpolation", "LINEAR")],
            backend=backend,
            crop=_pair((steps.get("CropImage") or {}).get("size")),
            scale=normalize["scale"],
            mean=tuple(normalize["mean"]),
            std=tuple(normalize["std"]),
        )
        name = str(said["Global"]["model_name"]).replace("FasterNet-", "FasterNet_")
        return Metadata(name, rule, None if names is None else tuple(map(str, names)))
    except OSError as error:
        raise PpclsExtError(f"{path}: {error.strerror or error}; ppcls-ext export-model writes it") from error
    except (yaml.YAMLError, KeyError, TypeError, AttributeError, ValueError, RecursionError) as error:
        raise PpclsExtError(f"{path}: not as ppcls-ext export-model writes it ({one_line(error)})") from error


def _pair(size: Any) -> tuple[int, int] | None:
    if size is None or isinstance(size, Mapping):
        return None
    return (size, size) if isinstance(size, int) else tuple(size)
