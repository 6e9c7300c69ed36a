"""Facts that weights are trained with (architecture, classes, image rule), kept beside them and compared.

They stand in the manifest beside the weights, PREFIX.json, and go where both are copied; run.json in a run's folder
holds them, too.
"""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ppcls_ext.config.folder import read_record
from ppcls_ext.errors import PpclsExtError
from ppcls_ext.weights.manifest import manifest_path, read_manifest

logger = logging.getLogger("ppcls_ext")


KEY = "trained_with"
Facts = dict[str, Any]


class Difference(NamedTuple):
    """A setting, as the weights were trained with it and as a configuration has it."""

    what: str
    trained: Any
    now: Any


def read_trained_with(weights: Path) -> Facts | None:
    """Reads the facts beside a file of weights; returns None where there are none."""
    prefix = weights.with_name(weights.name.split(".")[0])
    found = None
    with contextlib.suppress(PpclsExtError):  # whoever loads the weights says what is wrong with the manifest
        if manifest_path(prefix).is_file():
            found = read_manifest(prefix).state.get(KEY)
    if found is None and re.fullmatch(r"best_model|latest|epoch_\d+", prefix.name):
        with contextlib.suppress(PpclsExtError):
            found = (read_record(weights.parent) or {}).get(KEY)
    return found if isinstance(found, dict) else None


def compare(weights: Path, trained: Mapping[str, Any], now: Facts, mode: str, image_shape: Any) -> None:
    """Compares a configuration with what weights were trained with, and logs the differences in one line.

    Args:
        weights: their file, named in messages.
        trained: what `read_trained_with` found beside it.
        now: the same facts of the configuration.
        mode: "train" lets the classes and the size differ, as a fine-tuning's may.
        image_shape: (C, H, W) of the network's input; in the mode "export", which fixes nothing else of the images.

    Raises:
        PpclsExtError: the number or the order of the classes differs.
    """
    if mode == "export":
        now = {**now, "pictures": {"picture size": _size(image_shape[-1:-3:-1])}}
    found = differences(trained, now)
    if mode == "train":
        found = [item for item in found if item.what in ("mean", "std", "channel_order", "scale")]
    else:
        _check_classes(weights, trained, now)
    if found:
        was, says = (
            ", ".join(f"{item.what} {_text(getattr(item, side))}" for item in found) for side in ("trained", "now")
        )
        logger.warning("warning: %s was trained with %s; the configuration says %s", weights, was, says)


def differences(trained: Mapping[str, Any], now: Mapping[str, Any]) -> list[Difference]:
    """The architecture and the fields of the pictures' rule that differ, where both sides know them."""
    found = []
    if trained.get("architecture") != now["architecture"]:
        found.append(Difference("architecture", trained.get("architecture"), now["architecture"]))
    theirs, ours = (_with_size(facts.get("pictures") or {}) for facts in (trained, now))
    found += [Difference(name, theirs[name], ours[name]) for name in theirs if name in ours]
    return [item for item in found if item.trained != item.now]


def _with_size(pictures: Mapping[str, Any]) -> dict[str, Any]:
    """The rule's fields with the size in words, in the place of the crop."""
    fields = dict(pictures)
    crop, resize = fields.pop("crop", None), fields.get("resize")
    return {"picture size": _size(crop or resize), **fields} if crop or resize else fields


def _size(pair: Any) -> str:
    return "×".join(map(str, pair)) + " px"


def _text(value: Any) -> str:
    return "none" if value is None else str(value)


def _check_classes(weights: Path, trained: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    was, says = trained.get("class_num"), now["class_num"]
    if None not in (was, says) and was != says:
        raise PpclsExtError(
            f"{weights} was trained with {was} classes, and the configuration says {says}: "
            f"set Arch.class_num to {was}, or use the run's own settings: ppcls-ext eval {weights.parent}"
        )
    was, says = trained.get("class_names"), now["class_names"]
    if not was or not says or was == says:
        return
    first = next(i for i, pair in enumerate(zip([*was, None], [*says, None])) if pair[0] != pair[1])
    names = f"class {first} was {was[first] if first < len(was) else 'none'!r} when {weights} was trained, and is "
    names += f"{says[first] if first < len(says) else 'none'!r} in the configuration's class_id_map_file"
    if sorted(was) == sorted(says):
        raise PpclsExtError(f"the same classes in another order: {names}: give the file that it was trained with")
    logger.warning("warning: %s", names)
