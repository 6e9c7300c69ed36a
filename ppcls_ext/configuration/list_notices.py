"""What the lists leave out, said before the first step."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any

from ppcls_ext.data.lists import ListEntry
from ppcls_ext.errors import PpclsExtError
from ppcls_ext.runs.trained_with import class_count

logger = logging.getLogger("ppcls_ext")

#: Samplers that take every picture once; the others, and what they leave out, are known to PaddleClas alone.
PLAIN_SAMPLERS = (None, "DistributedBatchSampler", "BatchSampler")
SHOWN = 5  # classes that a line names


def say_what_is_left_out(config: dict[str, Any], lists: Mapping[str, list[ListEntry]]) -> None:
    """Logs a line for pictures outside every batch and for classes without pictures.

    Args:
        config: prepared, but for PaddleClas's copies of the lists.
        lists: by loader, Train or Eval.

    Raises:
        PpclsExtError: a list makes no batch at all.
    """
    from paddle.distributed import get_world_size

    for loader, entries in lists.items():
        section = config["DataLoader"][loader]
        sampler = section.get("sampler") or {}
        if sampler.get("name") in PLAIN_SAMPLERS and sampler.get("drop_last"):
            where = f"DataLoader.{loader}.sampler"
            _left_out(
                where, section["dataset"]["cls_label_path"], len(entries), sampler["batch_size"], get_world_size()
            )
    if "Train" in lists:
        dataset = config["DataLoader"]["Train"]["dataset"]
        classes = None if dataset.get("relabel") else class_count(config)
        if classes:
            _say_absent_classes(dataset["cls_label_path"], lists["Train"], classes)


def _left_out(where: str, path: str, pictures: int, batch: int, processes: int) -> None:
    batches = math.ceil(pictures / processes) // batch
    if batches == 0:
        raise PpclsExtError(
            f"{where}.batch_size is {batch}{f' on each of {processes} processes' if processes > 1 else ''}, and {path} "
            f"holds {pictures} pictures: with drop_last that makes no batch; lower it, or set drop_last to false"
        )
    left = pictures - batches * batch * processes
    if left > 0:
        what = "epoch" if "Train" in where else "evaluation"
        logger.warning(
            "%d of the %d pictures of %s are left out of each %s: %s.drop_last", left, pictures, path, what, where
        )


def _say_absent_classes(path: str, entries: Sequence[ListEntry], classes: int) -> None:
    labels = {entry.label for entry in entries}
    highest = max(labels)
    if highest + 1 < classes:
        logger.warning(
            "Arch.class_num is %d, and the labels of %s end at %d: the classes from %d have no picture",
            *(classes, path, highest, highest + 1),
        )
    absent = [label for label in range(min(highest, classes)) if label not in labels]
    if absent:
        names = ", ".join(map(str, absent[:SHOWN])) + (", …" if len(absent) > SHOWN else "")
        logger.warning("%s has no picture of %d classes: %s", path, len(absent), names)
