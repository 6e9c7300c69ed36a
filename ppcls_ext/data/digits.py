"""A small real dataset that needs no network: scikit-learn's 1797 handwritten digits as PNG files.

Source: sklearn.datasets.load_digits, the test part of UCI's "Optical Recognition of Handwritten Digits" (8×8 px, 17
grey levels), scaled up with a bicubic filter.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from ppcls_ext.data.dataset_folder import DatasetKind, make_folder
from ppcls_ext.data.lists import class_names_text, list_text, read_list, write_list
from ppcls_ext.errors import PpclsExtError
from ppcls_ext.packages import import_extra

IMAGES = 1797
CLASSES = 10
VAL_SHARE = 500 / IMAGES
LISTS = ("train_list.txt", "val_list.txt")
LABEL_LIST = "digits_label_list.txt"
DEFAULT_OUTPUT = Path("dataset", "digits")


def make(output: Path, size: int = 64, limit: int = IMAGES, seed: int = 0, force: bool = False) -> bool:
    """Makes the dataset in `output`, which appears complete or not at all.

    Args:
        output: the dataset's folder.
        size: side of the images, px.
        limit: number of images in all, 20..1797; every digit is in both lists, in proportion.
        seed: RNG seed of the split.
        force: whether to replace a dataset that this tool made with other settings, or a damaged one.

    Returns:
        False if the same dataset exists already.

    Raises:
        PpclsExtError: a setting is out of range, or `output` contains something else.
    """
    if not 8 <= size <= 1024:
        raise PpclsExtError(f"size {size} px: expected 8..1024")
    if not 2 * CLASSES <= limit <= IMAGES:
        raise PpclsExtError(
            f"limit {limit}: expected {2 * CLASSES}..{IMAGES} images, so that every digit is in both lists"
        )
    if not 0 <= seed < 2**32:
        raise PpclsExtError(f"seed {seed}: expected 0..{2**32 - 1}")
    settings = {"size": size, "limit": limit, "seed": seed}
    return make_folder(output, KIND, settings, force)


def _fault(output: Path, settings: dict[str, int]) -> str | None:
    try:
        images = sum(len(read_list(output / name, output, CLASSES)) for name in LISTS)
    except PpclsExtError as error:
        return str(error)
    return None if images == settings["limit"] else "its lists are not complete"


def _write(folder: Path, settings: dict[str, int]) -> None:
    digits = import_extra("sklearn.datasets").load_digits()
    val = max(CLASSES, round(settings["limit"] * VAL_SHARE))
    split = import_extra("sklearn.model_selection").train_test_split(
        np.arange(IMAGES),
        train_size=settings["limit"] - val,
        test_size=val,
        stratify=digits.target,
        random_state=settings["seed"],
    )
    (folder / "images").mkdir()
    for name, indices in zip(LISTS, split):
        rows = []
        for index in sorted(indices):
            path = f"images/digit_{index:04d}.png"
            rows.append((path, digits.target[index]))
            grey = np.round(digits.images[index] * (255 / 16)).astype(np.uint8)
            image = Image.fromarray(grey).resize((settings["size"], settings["size"]), Image.Resampling.BICUBIC)
            image.convert("RGB").save(folder / path)
        write_list(folder / name, list_text(rows))
    write_list(folder / LABEL_LIST, class_names_text(map(str, range(CLASSES))))


KIND = DatasetKind("digits_settings.json", frozenset(("images", *LISTS, LABEL_LIST)), _write, _fault)
