"""From a folder of class folders to shards and lists of what is in them."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from ppcls_ext.data.class_folders import TEST_LIST, TRAIN_LIST, VAL_LIST, ClassLists, make_lists
from ppcls_ext.data.image_files import read_image
from ppcls_ext.data.image_rule import RGB
from ppcls_ext.data.lists import list_text, read_list, write_list
from ppcls_ext.data.shards import write_shards
from ppcls_ext.errors import PpclsExtError
from ppcls_ext.files import folder_at_once, require_own_folder

#: The files that `pack_folder` writes.
FILES = r"(train|val|test)(-\d{6}\.tar|_list\.txt)|label_list\.txt|left_out\.txt"


def pack_folder(
    root: str | os.PathLike,
    folder: str | os.PathLike,
    shards: int,
    val_share: float,
    seed: int,
    report: Callable[[int, int], None] | None = None,
    channels: int = RGB,
) -> ClassLists:
    """Writes the images of class folders as shards, and the lists that `make_lists` makes, of what is in the shards.

    Args:
        root: the folder with the class folders.
        folder: where shards, lists and class names are written, at once.
        shards: how many for the images to train on; those to evaluate on get as many an image, at least one.
        val_share: see `make_lists`.
        seed: see `make_lists`.
        report: called after each image with (images done, images in all), first as it is checked, then as it is packed.
        channels: see `make_lists`.

    Raises:
        PpclsExtError: as of `make_lists` and `write_shards`, or `folder` holds other files.
    """
    target = Path(folder)
    require_own_folder(target, FILES, "packed data set")
    with folder_at_once(target, FILES) as new:
        made = make_lists(root, new, val_share, seed, report, channels=channels)
        most = made.images[0]
        for name in (TRAIN_LIST, VAL_LIST, TEST_LIST):
            if not (new / name).exists():
                continue
            images = read_list(new / name, made.root, len(made.classes))
            count = shards if name == TRAIN_LIST else max(1, min(len(images), shards * len(images) // most))
            paths = write_shards(
                new,
                name.partition("_")[0],
                list(zip(images.names(), images.targets.tolist())),
                lambda path: _read(made.root, path),
                count,
                report,
            )
            write_list(new / name, list_text(zip(paths, images.targets.tolist())))
    return made._replace(folder=target)


def _read(root: Path, path: str) -> bytes:
    try:
        return read_image(root / path)
    except OSError as error:
        raise PpclsExtError(f"cannot read {root / path}: {error.strerror or error}; pack again") from error
