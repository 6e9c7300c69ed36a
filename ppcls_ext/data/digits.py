"""A small real dataset that needs no network: scikit-learn's 1797 handwritten digits as PNG files.

Source: sklearn.datasets.load_digits, the test part of UCI's "Optical Recognition of Handwritten Digits" (8×8 px, 17
grey levels), scaled up with a bicubic filter.
"""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from ppcls_ext.data.lists import list_text, read_list, write_list
from ppcls_ext.errors import PpclsExtError
from ppcls_ext.packages import import_extra

IMAGES = 1797
CLASSES = 10
VAL_SHARE = 500 / IMAGES
LISTS = ("train_list.txt", "val_list.txt")
LABEL_LIST = "digits_label_list.txt"
SETTINGS = "digits_settings.json"
DEFAULT_OUTPUT = Path("dataset", "digits")


def make(output: Path, size: int = 64, limit: int = IMAGES, seed: int = 0, force: bool = False) -> bool:
    """Makes the dataset in `output`, which appears as a whole.

    Args:
        output: the dataset's folder.
        size: side of the images, px.
        limit: images in all, 20..1797. Every digit is in both lists, in proportion.
        seed: of the split.
        force: replaces a dataset of this tool with other settings, or a damaged one.

    Returns:
        False where the same dataset is there already.

    Raises:
        PpclsExtError: a setting is out of range, or `output` holds something else.
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
    output = Path(os.path.realpath(output))  # a linked folder is replaced, not its link
    occupied = output.is_dir() and any(output.iterdir())
    if occupied and _is_there(output, settings, force):
        return False
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{output.name}.", dir=output.parent) as aside:
            made = Path(aside) / "made"
            made.mkdir()
            _write(made, settings)
            if occupied:
                output.rename(Path(aside) / "replaced")
            elif output.is_dir():
                output.rmdir()
            made.rename(output)
    except OSError as error:
        raise PpclsExtError(f"cannot write {output}: {error.strerror or error}; choose another --output") from error
    return True


def _is_there(output: Path, settings: dict[str, int], force: bool) -> bool:
    """Whether `output` is this dataset, complete; False if it may be replaced."""
    foreign = {file.name for file in output.iterdir()} - {"images", *LISTS, LABEL_LIST, SETTINGS}
    if foreign or not (output / SETTINGS).is_file():
        what = f" ({min(foreign)})" if foreign else ""
        raise PpclsExtError(f"{output} holds files that this tool did not make{what}; choose another --output")
    try:
        found = json.loads((output / SETTINGS).read_text(encoding="utf-8"))
    except ValueError:
        found = "unreadable settings"
    if found == settings:
        try:
            if sum(len(read_list(output / name, output, CLASSES)) for name in LISTS) == settings["limit"]:
                return True
            fault = "its lists are not complete"
        except PpclsExtError as error:
            fault = str(error)
    else:
        fault = f"it was made with {found}, now {settings} is asked for"
    if not force:
        raise PpclsExtError(
            f"{output} is there, but {fault}; use --force to replace the folder or choose another --output"
        )
    return False


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
    write_list(folder / LABEL_LIST, "".join(f"{digit} {digit}\n" for digit in range(CLASSES)))
    write_list(folder / SETTINGS, json.dumps(settings) + "\n")
