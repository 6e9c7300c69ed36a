"""The option --data: a configuration turned to the user's own pictures."""

from __future__ import annotations

import logging

from ppcls_ext.data.lists import read_list
from ppcls_ext.data.make_lists import NAMES, TRAIN, VAL, Made
from ppcls_ext.errors import PpclsExtError

logger = logging.getLogger("ppcls_ext")


def use_pictures(config: dict, made: Made) -> None:
    """Sets, in place, data sets, number of classes, class names and accuracies to those of the lists.

    Args:
        config: as `load_config` returns it.
        made: what `make_lists` returned.

    Raises:
        PpclsExtError: the configuration does not train a classifier on an image list.
    """
    count = len(made.classes)
    for loader, name in (("Train", TRAIN), ("Eval", VAL)):
        dataset = ((config.get("DataLoader") or {}).get(loader) or {}).get("dataset")
        if not isinstance(dataset, dict) or dataset.get("name") != "ImageNetDataset":
            raise PpclsExtError(
                f"--data needs a configuration that classifies: DataLoader.{loader}.dataset is no ImageNetDataset"
            )
        dataset.update(image_root=str(made.root), cls_label_path=str((made.folder / name).absolute()))
        dataset.pop("delimiter", None)
    config["Arch"]["class_num"] = count
    config["Global"].pop("class_num", None)
    _set_accuracies(config, count)
    infer = config.get("Infer")
    if isinstance(infer, dict):
        infer["infer_imgs"] = _first_picture(made)
        post_process = infer.setdefault("PostProcess", {})
        post_process["class_id_map_file"] = str((made.folder / NAMES).absolute())
        post_process.pop("delimiter", None)
        if isinstance(post_process.get("topk"), int):
            post_process["topk"] = min(post_process["topk"], count)
    sampler = config["DataLoader"]["Train"].get("sampler") or {}
    batch = sampler.get("batch_size")
    if isinstance(batch, int) and batch > sum(made.train) and sampler.get("drop_last"):
        sampler["drop_last"] = False
        logger.info("%d pictures are less than a batch of %d: the one batch is smaller", sum(made.train), batch)


def _set_accuracies(config: dict, count: int) -> None:
    """Top-5 of five classes is always 1."""
    for metrics in (config.get("Metric") or {}).values():
        for metric in metrics or ():
            options = metric.get("TopkAcc") if isinstance(metric, dict) else None
            if options:
                topk = options.get("topk", [1, 5])
                topk = topk if isinstance(topk, (list, tuple)) else [topk]
                options["topk"] = [k for k in topk if k < count] or [1]


def _first_picture(made: Made) -> str:
    return str(read_list(made.folder / VAL, made.root, None)[0].path)
