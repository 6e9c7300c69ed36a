"""Pictures sorted into folders, one folder a class: FOLDER/CLASS/…, or FOLDER/train/CLASS/… and FOLDER/val/CLASS/…."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from ppcls_ext.errors import PpclsExtError

#: What the folder of pictures to evaluate on may be called.
VAL_NAMES = ("val", "valid", "validation")
LAYOUT = "expected one folder a class, such as FOLDER/daisy and FOLDER/tulip, or these in FOLDER/train and FOLDER/val"


class LeftOut(NamedTuple):
    """A file or folder that will not be used, and why: `kind` is one of few words, `reason` says it whole."""

    path: Path
    kind: str
    reason: str


class ClassFolders(NamedTuple):
    """What was found.

    Attributes:
        root: the folder that was asked for.
        classes: the names, in the order of the class numbers.
        train: the files of each class below FOLDER/train, or below FOLDER where there is no split.
        val: the files of each class below FOLDER/val; None where there is no split.
        left_out: what lies there besides.
    """

    root: Path
    classes: tuple[str, ...]
    train: tuple[list[Path], ...]
    val: tuple[list[Path], ...] | None
    left_out: list[LeftOut]


def find_class_folders(root: Path) -> ClassFolders:
    """Finds the classes and their files; the files are not opened.

    A class is a folder of the first level; all files in it and below it belong to it. Links are followed. Hidden files
    and folders are left out, as is what lies outside the class folders.

    Raises:
        PpclsExtError: there is no such folder, or fewer than two classes in it.
    """
    if not root.is_dir():
        raise PpclsExtError(f"no folder of pictures {root}: {LAYOUT}")
    left_out: list[LeftOut] = []
    folders = _subfolders(root, left_out)
    val = _find_split(root, folders)
    if val is None:
        classes = _in_order(folders)
        train = {name: _files(folders[name], left_out) for name in classes}
        classes = _with_files(classes, train, left_out, root)
        return ClassFolders(root, classes, tuple(train[name] for name in classes), None, left_out)
    for name in set(folders).difference(("train", val)):
        left_out.append(LeftOut(folders[name], "other folder", f"neither train nor {val}"))
    parts = {}
    for part in ("train", val):
        below = _subfolders(folders[part], left_out)
        parts[part] = {name: _files(path, left_out) for name, path in below.items()}
    classes = _with_files(_in_order(parts["train"]), parts["train"], left_out, folders["train"])
    unknown = sorted(name for name, files in parts[val].items() if files and name not in classes)
    if unknown:
        raise PpclsExtError(
            f"{folders[val]} holds the class {unknown[0]!r}, and {folders['train']} has no pictures of it: "
            "a network can only be evaluated on classes it is trained on"
        )
    return ClassFolders(
        root,
        classes,
        tuple(parts["train"][name] for name in classes),
        tuple(parts[val].get(name, []) for name in classes),
        left_out,
    )


def _find_split(root: Path, folders: dict[str, Path]) -> str | None:
    """The name of the folder of pictures to evaluate on, where FOLDER/train and it hold class folders."""
    found = [name for name in VAL_NAMES if name in folders]
    if "train" not in folders or not found or not all(_has_subfolder(folders[n]) for n in ("train", found[0])):
        return None  # a class may be called train
    others = sorted(set(folders).difference(("train", "test", found[0])))
    if others or len(found) > 1:
        raise PpclsExtError(
            f"{root} holds train/ and {found[0]}/, and {(others or found[1:])[0]}/ too: {LAYOUT}, and nothing else"
        )
    return found[0]


def _has_subfolder(path: Path) -> bool:
    return any(entry.is_dir() and not entry.name.startswith(".") for entry in os.scandir(path))


def _subfolders(path: Path, left_out: list[LeftOut]) -> dict[str, Path]:
    """The folders in `path`, by name; what else lies there is left out."""
    folders = {}
    for entry in sorted(path.iterdir()):
        reason = _unusable_name(entry.name)
        if reason:
            left_out.append(LeftOut(entry, "hidden" if entry.name.startswith(".") else "oddly named", reason))
        elif entry.is_dir():
            folders[entry.name] = entry
        else:
            left_out.append(LeftOut(entry, "outside the class folders", "it lies in no class folder"))
    return folders


def _in_order(names: dict) -> list[str]:
    """Sorted; where all names are numbers, by number, so that folder 10 is class 10."""
    if all(name.isascii() and name.isdecimal() for name in names):
        return sorted(names, key=lambda name: (int(name), name))
    return sorted(names)


def _with_files(classes: list[str], files: dict, left_out: list[LeftOut], root: Path) -> tuple[str, ...]:
    left_out += [LeftOut(root / name, "empty folder", "it holds no files") for name in classes if not files[name]]
    return tuple(name for name in classes if files[name])


def _files(folder: Path, left_out: list[LeftOut]) -> list[Path]:
    """All files in and below a class folder, sorted."""
    return sorted(_walk(folder, left_out, {folder.resolve()}))


def _walk(folder: Path, left_out: list[LeftOut], above: set[Path]) -> Iterator[Path]:
    for entry in sorted(folder.iterdir()):
        reason = _unusable_name(entry.name)
        if reason:
            left_out.append(LeftOut(entry, "hidden" if entry.name.startswith(".") else "oddly named", reason))
        elif entry.is_file():
            yield entry
        elif entry.is_dir():
            real = entry.resolve()
            if real in above:
                left_out.append(LeftOut(entry, "endless link", "a link to a folder above it"))
            else:
                yield from _walk(entry, left_out, above | {real})
        else:
            left_out.append(LeftOut(entry, "no file", "neither a file nor a folder, or a link to nothing"))


def _unusable_name(name: str) -> str | None:
    if name.startswith("."):
        return "its name begins with a dot"
    if "\n" in name or "\r" in name:
        return "its name has a line break, which no list can hold"
    try:
        name.encode()
    except UnicodeEncodeError:
        return "its name is not UTF-8, which no list can hold"
    return None
