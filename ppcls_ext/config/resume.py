"""Resuming a training: leave out what only starts one, and report the settings that have changed."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ppcls_ext.config.checks import is_ours
from ppcls_ext.config.folder import CONFIG, digests, read_record
from ppcls_ext.config.load import read_yaml
from ppcls_ext.errors import PpclsExtError

logger = logging.getLogger("ppcls_ext")


def leave_out_start(config: dict) -> None:
    """Removes, in place, the fields that only start a training: pretrained weights and `Recipe.unfuse`."""
    config["Global"]["pretrained_model"] = None
    if is_ours(config):
        config["Arch"].pop("pretrained", None)
    if isinstance(config.get("Recipe"), dict):
        config["Recipe"]["unfuse"] = None


def report_changes(resolved: dict, folder: Path) -> None:
    """Logs, in one line, which settings differ from those that the run in `folder` was trained with until now.

    Args:
        resolved: the configuration of the resumed training, with absolute paths.
        folder: the run's folder; without a config.yml in it, nothing is logged.
    """
    path = folder / CONFIG
    if not path.is_file():
        return
    found = changes(read_yaml(path), resolved)
    before, now = (read_record(folder) or {}).get("lists", {}), digests(resolved)
    for loader, facts in now.items():
        old = before.get(loader)
        if old and old["path"] == facts["path"] and old["sha256"] != facts["sha256"]:
            found.append(f"{facts['path']} has other lines than before ({old['pictures']} → {facts['pictures']})")
    if found:
        logger.warning("warning: resuming with changed settings: %s", in_words(found))


def check_patience(config: dict) -> None:
    """Raises PpclsExtError where `Global.patience` is not a number of epochs, or nothing is evaluated."""
    settings = config["Global"]
    patience = settings.get("patience")
    if patience is None:
        return
    if type(patience) is not int or patience < 1:
        raise PpclsExtError(f"Global.patience (--patience) is {patience!r}: expected a whole number of epochs from 1")
    if not settings["eval_during_train"]:
        raise PpclsExtError("Global.patience (--patience) needs evaluations: set Global.eval_during_train to true")


#: Patterns of the paths that may differ without changing what is learnt.
INDIFFERENT = (
    r"Infer\..*|profiler_options|Metric\..*|Recipe\.unfuse.*|Arch\.pretrained|Arch\.use_ssld",
    r"Global\.(checkpoints|pretrained_model|output_dir|save_inference_dir|print_batch_step|save_interval|patience|overwrite)",
    r"Global\.(device|use_visualdl|eval_during_train|eval_interval|start_eval_epoch|print_mem_info|image_shape)",
    r"DataLoader\..*\.(num_workers|use_shared_memory|prefetch_factor)",
)
SHOWN = 8


def changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Lists the differences between two configurations that change what is learnt, as "path old → new"."""
    old, new = dict(_leaves(before, "")), dict(_leaves(now, ""))
    found = []
    for path in dict.fromkeys([*old, *new]):
        was, says = old.get(path), new.get(path)
        if was != says and not any(re.fullmatch(pattern, path) for pattern in INDIFFERENT):
            found.append(f"{path} {_text(was)} → {_text(says)}")
    return found


def in_words(found: list[str]) -> str:
    """The first few of `changes`, and how many more there are."""
    more = f"; and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
    return "; ".join(found[:SHOWN]) + more


def _leaves(node: Any, above: str) -> Iterator[tuple[str, Any]]:
    items = node.items() if isinstance(node, Mapping) else enumerate(node) if isinstance(node, list) else None
    if items is None or (isinstance(node, list) and not any(isinstance(item, (Mapping, list)) for item in node)):
        if node is not None:
            yield above, node
        return
    for key, value in items:
        yield from _leaves(value, f"{above}.{key}" if above else str(key))


def _text(value: Any) -> str:
    return "none" if value is None else str(value)
