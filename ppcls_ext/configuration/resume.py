"""Resuming: what only starts a training is left out, and what was changed since is said."""

from __future__ import annotations

import logging
from pathlib import Path

from ppcls_ext.configuration.fields import is_ours
from ppcls_ext.configuration.yaml_file import read_yaml
from ppcls_ext.errors import PpclsExtError
from ppcls_ext.runs.changes import changes, in_words
from ppcls_ext.runs.folder import CONFIG
from ppcls_ext.runs.record import digests, read_record

logger = logging.getLogger("ppcls_ext")


def leave_out_start(config: dict) -> None:
    """Takes out, in place, what says how a training starts: pretrained weights and `Recipe.unfuse`."""
    config["Global"]["pretrained_model"] = None
    if is_ours(config):
        config["Arch"].pop("pretrained", None)
    if isinstance(config.get("Recipe"), dict):
        config["Recipe"]["unfuse"] = None


def report_changes(resolved: dict, folder: Path) -> None:
    """Logs, in one line, which settings differ from those that the run in `folder` was trained with until now.

    Args:
        resolved: the configuration to go on with, with absolute paths.
        folder: of the run; without a config.yml nothing is said.
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
    """Raises PpclsExtError where `Global.patience` is no number of epochs or nothing is evaluated."""
    settings = config["Global"]
    patience = settings.get("patience")
    if patience is None:
        return
    if type(patience) is not int or patience < 1:
        raise PpclsExtError(f"Global.patience (--patience) is {patience!r}: expected a whole number of epochs from 1")
    if not settings["eval_during_train"]:
        raise PpclsExtError("Global.patience (--patience) needs evaluations: set Global.eval_during_train to true")
