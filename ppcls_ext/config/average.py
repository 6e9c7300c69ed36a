"""The configuration of an average of several runs' weights: that of the first run, once all are of one network."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ppcls_ext.config.folder import LISTS, leave_out_start
from ppcls_ext.config.settings import RunSettings
from ppcls_ext.errors import PpclsExtError

#: Arguments of a network that leave its tensors as they are.
WITHOUT_WEIGHTS = ("pretrained", "freeze", "freeze_befor", "use_ssld")


def average_of(runs: Sequence[RunSettings]) -> tuple[RunSettings, list[Path]]:
    """The settings of the average of several runs, in no folder yet, and the files of their weights.

    Args:
        runs: at least two, each opened with its weights.

    Raises:
        PpclsExtError: there are fewer, one has no weights, or the runs are of different networks, classes or images.
    """
    if len(runs) < 2:
        raise PpclsExtError(f"{len(runs)} run is given: expected at least two, whose weights are averaged")
    first = runs[0]
    first.require_ours()
    files: list[Path] = []
    for run in runs:
        weights = run.weights()
        if run.given_folder is None or weights is None:
            what = "no run of a training" if run.given_folder is None else f"{run.folder}, which holds no weights"
            raise PpclsExtError(f"got {what}: expected folders that trainings wrote, or weights in them")
        if weights.path in files:
            raise PpclsExtError(f"{weights.path} is given twice: name each run once")
        files.append(weights.path)
        if differs := _difference(first, run):
            name, ours, theirs = differs
            raise PpclsExtError(
                f"{run.folder} has {name} {theirs}, and {first.folder} {ours}: expected trainings of one network on "
                "images of the same kind"
            )
    config = copy.deepcopy(first.config)
    leave_out_start(config)
    config["Global"]["checkpoints"] = None
    if isinstance(config.get("Recipe"), dict):
        config["Recipe"].update(freeze=None, teachers=None)
    lists = first.folder.absolute() / LISTS
    made = lists if lists.is_dir() else None  # they are copied into the average's folder
    return dataclasses.replace(first, config=config, given_folder=None, trained_lists={}, made_lists=made), files


def _difference(first: RunSettings, other: RunSettings) -> tuple[str, Any, Any] | None:
    """The first fact that differs between two trainings, with both values."""
    sides = []
    for run in (first, other):
        facts = {**run.trained_with(), "thresholds": None}  # each training chooses its own
        network = {name: value for name, value in run.arch.arguments.items() if name not in WITHOUT_WEIGHTS and value}
        facts.update((f"Arch.{name}", value) for name, value in network.items())
        facts.update(facts.pop("pictures") or {})
        sides.append(facts)
    ours, theirs = sides
    for name in (*ours, *(name for name in theirs if name not in ours)):
        if ours.get(name) != theirs.get(name):
            return name.replace("_", " "), _short(ours.get(name)), _short(theirs.get(name))
    return None


def _short(value: Any) -> str:
    text = "none" if value is None else ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return text if len(text) <= 60 else f"{text[:57]}…"
