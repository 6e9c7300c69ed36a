"""The images of a training: lists of a folder, made for it or kept by the run that is resumed."""

from __future__ import annotations

import os
from pathlib import Path

from paddle.distributed import get_rank

from ppcls_ext.config.first_epoch import settle
from ppcls_ext.config.folder import LISTS
from ppcls_ext.config.lists import with_lists, with_made_lists
from ppcls_ext.config.settings import RunSettings
from ppcls_ext.config.weights import require_no_earlier_training
from ppcls_ext.data.class_folders import LABEL_LIST, TRAIN_LIST, VAL_LIST, kept_lists
from ppcls_ext.data.lists import MULTI_LABEL, SINGLE_LABEL
from ppcls_ext.errors import PpclsExtError, printable
from ppcls_ext.weights.folder_lock import hold, release


def with_images(
    settings: RunSettings,
    data: str | os.PathLike | None,
    labels: str | os.PathLike | None,
    val_share: float,
    split_seed: int,
    quiet: bool = False,
) -> RunSettings:
    """A training's settings with the lists of a folder of images; the run's folder is held from here on.

    New lists are made aside, and go to the run's folder when the training begins; a resumed run keeps its own.

    Args:
        settings: the training's.
        data: the folder; None for the lists of the configuration.
        labels: a table of labels, in the place of class folders.
        val_share: see `ppcls_ext.train`.
        split_seed: see `ppcls_ext.train`.
        quiet: whether to say nothing of the lists.

    Raises:
        PpclsExtError: another process trains in the folder, it holds an earlier training, or the images do not fit.
    """
    if data is None and labels is not None:
        raise PpclsExtError(f"labels (--labels) is {labels}: expected data (--data) too, the folder of the images")
    if data is None:
        return settings
    folder, options = settings.folder, settings.section("Global")
    resumed = options.get("checkpoints") is not None
    try:
        if get_rank() == 0:
            hold(folder)
            settle(folder)
            if not (resumed or options.get("overwrite")):
                require_no_earlier_training(folder)
        if resumed and all((folder / LISTS / name).is_file() for name in (TRAIN_LIST, VAL_LIST, LABEL_LIST)):
            return with_lists(
                settings, kept_lists(Path(data), folder / LISTS, SINGLE_LABEL if labels is None else MULTI_LABEL)
            )
        settings, made = with_made_lists(settings, data, labels, val_share, split_seed)
    except BaseException:
        release(folder)
        raise
    if not quiet:
        for line in made._replace(folder=folder / LISTS).lines():
            print(printable(line))
    return settings
