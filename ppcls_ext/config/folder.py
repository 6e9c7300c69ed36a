"""The folder of a run: what lies where in it, its paths, and the record of the training (run.json, config.yml)."""

from __future__ import annotations

import datetime
import hashlib
import json
import logging
import math
import os
import platform
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from ppcls_ext.config.shipped import Dumper
from ppcls_ext.errors import NoSuchRunError, PpclsExtError, one_line
from ppcls_ext.files import atomic_write, read_regular
from ppcls_ext.weights.checkpoint_sets import is_saved

logger = logging.getLogger("ppcls_ext")


CONFIG, RECORD, LISTS = "config.yml", "run.json", "lists"
#: The weights that a run's folder stands for: those that were best, else those that were evaluated last.
WEIGHTS = ("best_model.pdparams", "latest.ema.pdparams", "latest.pdparams")


class RunFolder(NamedTuple):
    """A run's folder and the weights in it that are meant; None where there are none yet."""

    folder: Path
    weights: Path | None

    def adopt(self, config: dict) -> None:
        """Points the run's own configuration to where the folder is now, and to the weights.

        Args:
            config: what config.yml in the folder holds; changed in place.
        """
        settings = config["Global"]
        old, here = folder_of(config), self.folder.absolute()
        if old != here:
            move_paths(config, old, here)
        settings["output_dir"] = str(self.folder.parent)
        settings["save_inference_dir"] = str(self.folder / "inference")
        if self.weights is not None:
            settings["pretrained_model"] = str(self.weights)


def folder_of(config: dict) -> Path:
    """Where a training with this configuration writes."""
    return Path(str(config["Global"]["output_dir"])) / str(config["Arch"]["name"])


def find_run(name: str | os.PathLike) -> RunFolder:
    """The run that `name` means: its folder, or a file of weights in it, with or without suffix.

    Raises:
        NoSuchRunError: there is no such run.
    """
    path = Path(name)
    path = path if path.name else path.absolute()  # the working directory itself
    if path.is_dir():
        if not (path / CONFIG).is_file():
            raise NoSuchRunError(
                f"{name} is no run: it holds no {CONFIG}; expected the folder that a training wrote, such as "
                f"output/MobileOne_S0{_runs_below(path)}"
            )
        found = [path / file for file in WEIGHTS if is_saved(path / file)]
        return RunFolder(path, found[0] if found else None)
    for weights in (path, path.with_name(f"{path.name}.pdparams")):
        if weights.suffix and is_saved(weights) and (weights.parent / CONFIG).is_file():
            return RunFolder(weights.parent, weights)
    raise NoSuchRunError(
        f"{name} is no run: expected the folder that a training wrote, such as output/MobileOne_S0, or weights in it"
    )


def need_weights(run: RunFolder) -> Path:
    """The weights of a run.

    Raises:
        PpclsExtError: nothing has been saved yet.
    """
    if run.weights is None:
        raise PpclsExtError(f"{run.folder} holds no weights: its training has not come to the end of an epoch")
    return run.weights


def _runs_below(path: Path) -> str:
    names = sorted(file.parent.name for file in path.glob(f"*/{CONFIG}"))
    return f"; in {path} there is {', '.join(names[:5])}" if names else ""


#: Fields that hold a path, wherever they stand.
PATH_FIELDS = (
    *("output_dir", "save_inference_dir", "pretrained_model", "checkpoints", "image_root", "cls_label_path"),
    *("infer_imgs", "infer_list", "save_dir", "save_image", "class_id_map_file", "pretrained"),
)
#: Of these, what may also be a word or a file inside PaddleClas: a path only where there is such a file.
ONLY_IF_THERE = ("pretrained_model", "checkpoints", "pretrained", "class_id_map_file", "infer_imgs")


def make_absolute(config: dict, host_folder: Path) -> None:
    """Makes every path absolute, in place, so that the configuration means the same from any working directory.

    Args:
        config: the dict from `load_config`.
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
            if field in PATH_FIELDS and isinstance(value, str) and value and "://" not in value:
                yield node, field
            else:
                yield from _paths(value)
    elif isinstance(node, list):
        for item in node:
            yield from _paths(item)


LARGEST = 1 << 26
"""Bytes of run.json."""
#: Packages whose versions are kept.
PACKAGES = ("ppcls_ext", "paddlepaddle", "paddlepaddle-gpu", "paddleclas", "numpy", "opencv-python-headless", "pillow")


class Record:
    """The record of one run, in its folder.

    Args:
        folder: the run's folder.

    Attributes:
        facts: what run.json holds; `write` writes it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.facts: dict[str, Any] = read_record(folder) or {}

    def begin(self, config: dict, command: str, **facts: Any) -> None:
        """Writes config.yml and the beginning of run.json; where the run is resumed, what is known of it stays.

        Args:
            config: the resolved configuration, with absolute paths.
            command: the command line that was typed.
            **facts: further facts, as JSON can hold them.
        """
        if facts.pop("resumed") and self.facts:
            self.facts.setdefault("resumed_with", []).append(command)
        else:
            self.facts = {"command": command, "started": _now()}
        self.facts.update(
            {"versions": versions(), "working_directory": os.getcwd(), "finished": False, "lists": digests(config)}
        )
        self.facts.update(facts)
        with atomic_write(self.folder / CONFIG, "w", encoding="utf-8") as stream:
            stream.write(f"# The settings of this run, reusable with -c: {one_line(command)}\n")
            stream.write(config_text(config))
        self.write()

    def write(self, **facts: Any) -> None:
        """Adds `facts` and writes run.json."""
        self.facts.update(facts, updated=_now())
        with atomic_write(self.folder / RECORD, "w", encoding="utf-8") as stream:
            json.dump(self.facts, stream, indent=1, ensure_ascii=False)

    @property
    def best(self) -> tuple[int, float]:
        """The first epoch with the best evaluation so far, and that evaluation's metric; 0 and -infinity before any."""
        best = self.facts.get("best") or {}
        return best.get("since", best.get("epoch", 0)), best.get("value", -math.inf)


def config_text(config: dict) -> str:
    """A configuration as YAML."""
    return yaml.dump(config, None, Dumper, sort_keys=False, allow_unicode=True, width=120)


def read_record(folder: Path) -> dict[str, Any] | None:
    """What run.json in `folder` holds; None where there is none.

    Raises:
        PpclsExtError: it is damaged.
    """
    path = folder / RECORD
    try:
        facts = json.loads(read_regular(path, LARGEST))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise PpclsExtError(f"cannot read {path}: {error}; remove it, and a new one is written") from error
    if not isinstance(facts, dict):
        raise PpclsExtError(f"{path} holds no record of a run: remove it, and a new one is written")
    return facts


def versions() -> dict[str, str]:
    """The versions that a result depends on, as far as they are installed."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def digests(config: dict) -> dict[str, dict[str, Any]]:
    """Path, number of lines and SHA-256 of each image list."""
    found = {}
    for loader, section in (config.get("DataLoader") or {}).items():
        dataset = section.get("dataset") if isinstance(section, dict) else None
        path = dataset.get("cls_label_path") if isinstance(dataset, dict) else None
        if isinstance(path, str) and Path(path).is_file():
            content = Path(path).read_bytes()
            found[loader] = {
                "path": path,
                "pictures": len(content.splitlines()),
                "sha256": hashlib.sha256(content).hexdigest(),
            }
    return found


def _now() -> str:
    return datetime.datetime.now().astimezone().isoformat(timespec="seconds")
