"""inference.yml, the metadata of an exported Paddle program in the form that PaddleX reads."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from ppcls_ext.bounded_yaml import load_yaml
from ppcls_ext.data.image_rule import RGB, Preprocessing
from ppcls_ext.data.lists import MULTI_LABEL, SINGLE_LABEL
from ppcls_ext.errors import PpclsExtError, one_line
from ppcls_ext.files import read_regular
from ppcls_ext.predict.answers import DEFAULT_THRESHOLD, check_threshold
from ppcls_ext.predict.metadata import Metadata

NAME = "inference.yml"
LARGEST = 1 << 24  # bytes
#: PaddleX's names of the interpolations, by library.
WORDS = {
    "cv2": {"nearest": "NEAREST", "bilinear": "LINEAR", "bicubic": "BICUBIC", "area": "AREA", "lanczos": "LANCZOS4"},
    "pil": {"nearest": "NEAREST", "bilinear": "BILINEAR", "bicubic": "BICUBIC", "box": "BOX", "lanczos": "LANCZOS"},
}


#: What PaddleX's post-processing is called, by task.
POST_PROCESSING = {SINGLE_LABEL: "Topk", MULTI_LABEL: "MultiLabelThreshOutput"}
#: Behind the name of a multi-label model: PaddleX chooses its module by the name.
MULTI_LABEL_SUFFIX = "_ML"


def paddlex_name(architecture: str, task: str = SINGLE_LABEL) -> str:
    """Returns PaddleX's name of a model, such as FasterNet-T0, or FasterNet-T0_ML where it is multi-label."""
    name = architecture.replace("_", "-") if architecture.startswith("FasterNet_") else architecture
    return name + MULTI_LABEL_SUFFIX if task == MULTI_LABEL else name


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
    numbers = {"scale": rule.scale, "mean": list(rule.mean), "std": list(rule.std), "order": ""}
    numbers["channel_num"] = rule.channels
    steps += [{"NormalizeImage": numbers}, {"ToCHWImage": None}]
    post: dict[str, Any] = {"topk": topk} if metadata.task == SINGLE_LABEL else {"threshold": _threshold(metadata)}
    if metadata.class_names is not None:
        post["label_list"] = list(metadata.class_names)
    said = {
        "Global": {"model_name": paddlex_name(metadata.architecture, metadata.task)},
        "PreProcess": {"transform_ops": steps},
        "PostProcess": {POST_PROCESSING[metadata.task]: post},
    }
    return yaml.safe_dump(said, sort_keys=False, allow_unicode=True)


def other_in_paddlex(metadata: Metadata) -> list[str]:
    """Returns what PaddleX 3 does otherwise than `predict`, a sentence each."""
    channels, said = metadata.preprocessing.channels, []
    if channels != RGB:
        said.append(
            f"PaddleX makes {RGB} channels of every image, and the network takes {channels}: PaddleX cannot run it, "
            "ppcls-ext predict --runtime paddle can"
        )
    if metadata.task == SINGLE_LABEL:
        return said
    if metadata.preprocessing.crop is not None:
        said.append(
            "PaddleX's module for multi-label images leaves CropImage out, and so sees other images than the network "
            "was trained on: for PaddleX, train with ResizeImage.size and no CropImage"
        )
    if isinstance(_threshold(metadata), list):
        said.append(
            "PaddleX takes a list of thresholds for one of images, not of classes: give its predict one threshold"
        )
    if metadata.class_names is None:
        said.append(
            "PaddleX's module for multi-label images fails without class names: give Infer.PostProcess."
            "class_id_map_file"
        )
    return said


def _threshold(metadata: Metadata) -> float | list[float]:
    """Returns one number where all are equal and there are names to tell how many; else one for each class."""
    if metadata.thresholds is None:
        return DEFAULT_THRESHOLD
    values, names = list(map(float, metadata.thresholds)), metadata.class_names or ()
    return values[0] if len(set(values)) == 1 and len(names) == len(values) else values


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
        task = MULTI_LABEL if POST_PROCESSING[MULTI_LABEL] in said["PostProcess"] else SINGLE_LABEL
        post = said["PostProcess"][POST_PROCESSING[task]]
        names = post.get("label_list")
        names = None if names is None else tuple(map(str, names))
        rule = Preprocessing(
            resize_short=resize.get("resize_short"),
            resize=_pair(resize.get("size")),
            interpolation=words[resize.get("interpolation", "LINEAR")],
            backend=backend,
            crop=_pair((steps.get("CropImage") or {}).get("size")),
            scale=normalize["scale"],
            mean=tuple(normalize["mean"]),
            std=tuple(normalize["std"]),
            channels=normalize.get("channel_num", RGB),
        )
        name = str(said["Global"]["model_name"]).replace("FasterNet-", "FasterNet_")
        if task == SINGLE_LABEL:
            return Metadata(name, rule, names)
        thresholds = _read_threshold(post["threshold"], names)
        return Metadata(name.removesuffix(MULTI_LABEL_SUFFIX), rule, names, task=task, thresholds=thresholds)
    except OSError as error:
        raise PpclsExtError(f"{path}: {error.strerror or error}; ppcls-ext export-model writes it") from error
    except (PpclsExtError, yaml.YAMLError, KeyError, TypeError, AttributeError, ValueError, RecursionError) as error:
        raise PpclsExtError(f"{path}: not as ppcls-ext export-model writes it ({one_line(error)})") from error


def _read_threshold(said: Any, names: tuple[str, ...] | None) -> tuple[float, ...] | None:
    if isinstance(said, list):
        return tuple(map(check_threshold, said))
    if check_threshold(said) == DEFAULT_THRESHOLD:
        return None
    if names is None:
        raise ValueError(f"threshold is {said} for an unknown number of classes")
    return (float(said),) * len(names)


def _pair(size: Any) -> tuple[int, int] | None:
    if size is None or isinstance(size, Mapping):
        return None
    return (size, size) if isinstance(size, int) else tuple(size)
