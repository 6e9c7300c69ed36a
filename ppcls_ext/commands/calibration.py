"""The pictures that an int8 file is calibrated and checked on: a list's, a folder's, or those that a run trained on."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ppcls_ext.commands.source import open_run
from ppcls_ext.config.folder import CONFIG, find_run
from ppcls_ext.data.image_files import find_images
from ppcls_ext.data.image_input import network_input
from ppcls_ext.data.image_rule import Preprocessing
from ppcls_ext.data.lists import read_lines
from ppcls_ext.errors import PpclsExtError


def calibration_pictures(
    source: str | None, config: Mapping[str, Any], count: int, rule: Preprocessing, seed: int = 0
) -> np.ndarray:
    """Prepared pictures.

    Args:
        source: a list (the label behind a path may be missing), a folder (and those below it), or the folder of a
            training; None for the training pictures of `config`.
        config: of the model.
        count: how many to take, at random; all where there are fewer.
        rule: how they become the network's input.
        seed: of the choice.

    Returns:
        (N, 3, H, W) float32.

    Raises:
        PpclsExtError: there are no pictures, or one cannot be read.
    """
    files = sorted(dict.fromkeys(_files(source, config)))
    chosen = np.sort(np.random.default_rng(seed).permutation(len(files))[:count])
    return np.stack([network_input(files[index], rule) for index in chosen])


def _files(source: str | None, config: Mapping[str, Any]) -> list[Path]:
    if source is None:
        return _training_files(config, "the configuration")
    path = Path(source)
    if (path / CONFIG).is_file():
        return _training_files(open_run(find_run(path), []), str(path / CONFIG))
    if path.is_dir():
        return find_images([source])
    root = _dataset(config).get("image_root")
    return _listed(path, [path.parent, *([Path(root)] if root else [])])


def _training_files(config: Mapping[str, Any], where: str) -> list[Path]:
    dataset = _dataset(config)
    names = dataset.get("cls_label_path"), dataset.get("image_root")
    if not all(isinstance(name, str) for name in names):
        raise PpclsExtError(f"{where} names no training pictures (DataLoader.Train.dataset): give --calibration PLACE")
    return _listed(Path(names[0]), [Path(names[1])], dataset.get("delimiter") or " ")


def _dataset(config: Mapping[str, Any]) -> Mapping[str, Any]:
    section: Any = config
    for name in ("DataLoader", "Train", "dataset"):
        section = section.get(name) or {} if isinstance(section, Mapping) else {}
    return section if isinstance(section, Mapping) else {}


def _listed(path: Path, roots: list[Path], delimiter: str | None = None) -> list[Path]:
    """The files that a list names, below the first of `roots` that has them; None: the label is behind any space."""
    found = []
    for number, line in enumerate(read_lines(path), 1):
        name = line.strip()
        if not name:
            continue
        # with a label or without; a path may hold spaces
        candidates = [root / part for root in roots for part in (name, name.rsplit(delimiter, 1)[0]) if part]
        file = next((candidate for candidate in candidates if candidate.is_file()), None)
        if file is None:
            raise PpclsExtError(f"{path}:{number}: no picture {line!r} below {' or '.join(map(str, roots))}")
        found.append(file)
    return found
