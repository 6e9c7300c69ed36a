"""The paths that a configuration names: made absolute, and moved along with a run's folder."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

#: Fields that hold a path, wherever they stand.
FIELDS = (
    *("output_dir", "save_inference_dir", "pretrained_model", "checkpoints", "image_root", "cls_label_path"),
    *("infer_imgs", "infer_list", "save_dir", "save_image", "class_id_map_file", "pretrained"),
)
#: Of these, what may also be a word or a file inside PaddleClas: a path only where there is such a file.
ONLY_IF_THERE = ("pretrained_model", "checkpoints", "pretrained", "class_id_map_file", "infer_imgs")


def make_absolute(config: dict, host_folder: Path) -> None:
    """Makes every path absolute, in place, so that the configuration means the same from any working directory.

    Args:
        config: as `load_config` returns it.
        host_folder: PaddleClas's, where its own lists of class names are.
    """
    for node, field in _paths(config):
        path = Path(node[field])
        if field in ONLY_IF_THERE and not _exists(path):
            inside = host_folder / path
            if field == "class_id_map_file" and inside.is_file():
                node[field] = str(inside)
            continue
        node[field] = os.path.abspath(path)


def move_paths(config: dict, old: Path, new: Path) -> None:
    """Replaces `old` by `new` in every path that begins with it and is there under `new`."""
    for node, field in _paths(config):
        path = Path(node[field])
        if path.is_relative_to(old) and (new / path.relative_to(old)).exists():
            node[field] = str(new / path.relative_to(old))


def _exists(path: Path) -> bool:
    return path.exists() or path.with_name(f"{path.name}.pdparams").exists() if path.name else False


def _paths(node: Any) -> Iterator[tuple[dict, str]]:
    """Each mapping and field below `node` that holds a path."""
    if isinstance(node, dict):
        for field, value in node.items():
            if field in FIELDS and isinstance(value, str) and value and "://" not in value:
                yield node, field
            else:
                yield from _paths(value)
    elif isinstance(node, list):
        for item in node:
            yield from _paths(item)
