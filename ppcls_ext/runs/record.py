"""run.json and config.yml: what a run was started with, and how far and how well it has come."""

from __future__ import annotations

import datetime
import hashlib
import json
import math
import os
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml

from ppcls_ext.config_table.render import Dumper
from ppcls_ext.errors import PpclsExtError, one_line
from ppcls_ext.files import atomic_write, read_regular
from ppcls_ext.runs.folder import CONFIG, RECORD

LARGEST = 1 << 26
"""Bytes of run.json."""
#: Packages whose versions are kept.
PACKAGES = ("ppcls_ext", "paddlepaddle", "paddlepaddle-gpu", "paddleclas", "numpy", "opencv-python-headless", "pillow")


class Record:
    """The record of one run, in its folder.

    Args:
        folder: of the run.

    Attributes:
        facts: what run.json holds; `write` writes it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.facts: dict[str, Any] = read_record(folder) or {}

    def begin(self, config: dict, command: str, **facts: Any) -> None:
        """Writes config.yml and the beginning of run.json; where the run is resumed, what is known of it stays.

        Args:
            config: resolved, with absolute paths.
            command: that was typed.
            **facts: anything else that JSON can hold.
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
