"""The option --check-images: decodes every image of the lists before a training finds out by itself."""

from __future__ import annotations

import sys

from tqdm import tqdm

from ppcls_ext.config.lists import read_lists
from ppcls_ext.data import image_files
from ppcls_ext.errors import PpclsExtError, one_line, printable


def check_images(config: dict, mode: str) -> None:
    """Decodes the images that `mode` would use, names on stderr what cannot be read, and prints a summary.

    Args:
        config: what `load_config` returned; `prepare` has nothing against it.
        mode: "train" or "eval".

    Raises:
        PpclsExtError: some image cannot be read, or there is no plain image list.
    """
    found = read_lists(config, mode)
    if not found:
        raise PpclsExtError("--check-images: DataLoader has no ImageNetDataset, so there is no list to check")
    unreadable = 0
    for loader, entries in found.items():
        path = config["DataLoader"][loader]["dataset"]["cls_label_path"]
        with tqdm(total=len(entries), desc=loader, unit=" images", file=sys.stderr) as bar:
            faults = image_files.check_images(entries, lambda done, total, bar=bar: bar.update())
        for entry, fault in faults:
            print(printable(one_line(f"{path}:{entry.line}: {entry.path}: {fault}")), file=sys.stderr)
        print(f"{path}: {len(entries) - len(faults)} of {len(entries)} images can be read")
        unreadable += len(faults)
    if unreadable:
        raise PpclsExtError(f"{unreadable} images cannot be read; they are named above: replace them or take them out")
