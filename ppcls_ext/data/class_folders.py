"""From folders of images, one per class, to PaddleClas's image lists.

The images lie in FOLDER/CLASS/…, or in FOLDER/train/CLASS/… and FOLDER/val/CLASS/….
"""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

from ppcls_ext.data.image_files import SUFFIXES, find_faults, reason_of
from ppcls_ext.data.lists import SINGLE_LABEL, class_names_text, list_text, read_class_names, read_list, write_list
from ppcls_ext.errors import NotImageError, PpclsExtError
from ppcls_ext.files import identical_files

#: The files that `make_lists` writes.
TRAIN_LIST, VAL_LIST, LABEL_LIST, LEFT_OUT_LIST = "train_list.txt", "val_list.txt", "label_list.txt", "left_out.txt"
#: The names that the folder of validation images may have.
VAL_NAMES = ("val", "valid", "validation")
LAYOUT = "expected one folder a class, such as FOLDER/daisy and FOLDER/tulip, or these in FOLDER/train and FOLDER/val"


AnyLabel = TypeVar("AnyLabel", bound=Hashable)


class LeftOut(NamedTuple):
    """A file or folder that will not be used.

    Attributes:
        path: the file or folder.
        kind: the reason in a few words, which are counted.
        reason: the reason in full.
    """

    path: Path
    kind: str
    reason: str


class ClassFolders(NamedTuple):
    """The classes of a folder and their files.

    Attributes:
        root: the folder that was searched.
        classes: the class names, in the order of their indices.
        train: the files of each class below FOLDER/train, or below FOLDER if there is no split.
        val: the files of each class below FOLDER/val; None if there is no split.
        left_out: all other files and folders.
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
        PpclsExtError: there is no such folder, or the split is unclear.
    """
    if not root.is_dir():
        raise PpclsExtError(f"no folder of images {root}: {LAYOUT}")
    left_out: list[LeftOut] = []
    folders = _subfolders(root, left_out)
    val = _find_split(root, folders)
    if val is None:
        names = _in_order(folders)
        train = {name: _files(folders[name], left_out) for name in names}
        classes = _with_files(names, train, left_out, root)
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
            f"{folders[val]} holds the class {unknown[0]!r}, and {folders['train']} has no images of it: "
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
    """Returns the name of the folder of validation images if FOLDER/train and it contain class folders."""
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
    """Returns the folders in `path` by name, and adds everything else to `left_out`."""
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
    """Sorts names; by number if all of them are numbers, so that folder 10 is class 10."""
    if all(name.isascii() and name.isdecimal() for name in names):
        return sorted(names, key=lambda name: (int(name), name))
    return sorted(names)


def _with_files(classes: list[str], files: dict, left_out: list[LeftOut], root: Path) -> tuple[str, ...]:
    left_out += [LeftOut(root / name, "empty folder", "it holds no files") for name in classes if not files[name]]
    return tuple(name for name in classes if files[name])


def _files(folder: Path, left_out: list[LeftOut]) -> list[Path]:
    """Returns all files in and below a class folder, sorted."""
    return sorted(walk_files(folder, left_out))


def walk_files(folder: Path, left_out: list[LeftOut]) -> Iterator[Path]:
    """Yields all files in and below a folder, and adds to `left_out` what is hidden, oddly named or no file."""
    return _walk(folder, left_out, {folder.resolve()})


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
            left_out.append(LeftOut(entry, "not a file", "neither a file nor a folder, or a link to nothing"))


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


def usable_files(
    classes: Sequence[list[Path]], report: Callable[[int, int], None] | None = None
) -> tuple[list[list[Path]], list[LeftOut]]:
    """Decodes every file of every class, and looks for byte-identical files.

    Args:
        classes: the files of each class.
        report: called after each file with (files done, files in all).

    Returns:
        The usable files of each class, and all others with the reason.
    """
    images = [(label, path) for label, files in enumerate(classes) for path in files]
    good, left_out = usable_images(images, "in several classes", "which class is right?", report)
    kept: list[list[Path]] = [[] for _ in classes]
    for label, path in good:
        kept[label].append(path)
    return kept, left_out


def usable_images(
    images: Sequence[tuple[AnyLabel, Path]],
    kind: str,
    question: str,
    report: Callable[[int, int], None] | None = None,
) -> tuple[list[tuple[AnyLabel, Path]], list[LeftOut]]:
    """Decodes every file, and looks for byte-identical ones.

    Of duplicates with one label the first is kept; duplicates with several are all left out, because theirs is unknown.

    Args:
        images: label and file of each image.
        kind: what is said of duplicates with several labels.
        question: and what is asked.
        report: called after each file with (files done, files in all).

    Returns:
        The usable images, and all others with the reason.
    """
    left_out, good = [], []
    for (label, path), fault in zip(images, find_faults([path for _, path in images], report)):
        if fault is None:
            good.append((label, path))
        else:
            is_image = path.suffix.lower() in SUFFIXES or not isinstance(fault, NotImageError)
            left_out.append(LeftOut(path, "unreadable" if is_image else "not an image", reason_of(fault)))
    duplicates = _duplicates(good, kind, question)
    left_out += duplicates
    gone = {duplicate.path for duplicate in duplicates}
    return [(label, path) for label, path in good if path not in gone], left_out


def _duplicates(images: Sequence[tuple[AnyLabel, Path]], kind: str, question: str) -> list[LeftOut]:
    labels = {path: label for label, path in images}
    left_out = []
    for group in identical_files(labels, lambda group: len(group) > 1):
        first = group[0]
        if len({labels[path] for path in group}) == 1:
            left_out += [LeftOut(path, "duplicate", f"the same bytes as {first}") for path in group[1:]]
        else:
            for path in group:
                other = first if path != first else group[1]
                left_out.append(LeftOut(path, kind, f"the same bytes as {other}: {question}"))
    return left_out


class ClassLists(NamedTuple):
    """The lists that `make_lists` wrote.

    Attributes:
        root: the image root that the paths in the lists start from.
        folder: the folder of train_list.txt, val_list.txt, label_list.txt and, if anything was left out, left_out.txt.
        classes: the class names, in the order of their indices.
        train: the number of training images of each class.
        val: the number of validation images of each class.
        left_out: the files that the lists do not contain.
        images: the number of images to train on, and to evaluate on.
        task: "multi-label" where an image may be of several classes.
    """

    root: Path
    folder: Path
    classes: tuple[str, ...]
    train: list[int]
    val: list[int]
    left_out: list[LeftOut]
    images: tuple[int, int]
    task: str = SINGLE_LABEL

    def lines(self) -> list[str]:
        """Returns a summary for the terminal: the counts, what was left out, and classes without images in a part."""
        lines = [f"{len(self.classes)} classes, {self.images[0]} images to train on, {self.images[1]} to evaluate on"]
        if self.left_out:
            counts = Counter(item.kind for item in self.left_out)
            by_count = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
            words = ", ".join(f"{count} {kind}" for kind, count in by_count)
            lines.append(f"left out: {words}; {self.folder / LEFT_OUT_LIST} names them")
        for part, what in ((self.train, "train"), (self.val, "evaluate")):
            few = [name for name, count in zip(self.classes, part) if not count]
            if few:
                more = f" and {len(few) - 1} more" if len(few) > 1 else ""
                lines.append(f"no image of {few[0]!r}{more} to {what} on")
        return lines


def make_lists(
    root: str | os.PathLike,
    folder: str | os.PathLike,
    val_share: float = 0.2,
    seed: int = 0,
    report: Callable[[int, int], None] | None = None,
) -> ClassLists:
    """Writes the lists of a folder of class folders.

    Args:
        root: contains one folder per class, or these in train/ and val/; see `find_class_folders`.
        folder: where to write the lists.
        val_share: the share of each class's images to evaluate on if there is no val/: at least one image of a class
            that has two, and never all.
        seed: RNG seed of the split; the same images and seed give the same lists.
        report: called after each decoded image with (images done, images in all).

    Raises:
        PpclsExtError: fewer than two classes have usable images, or there is nothing to evaluate on.
    """
    check_share(val_share)
    root, folder = Path(root).resolve(), Path(folder)
    found = find_class_folders(root)
    train, left_out = usable_files(found.train, report)
    left_out = found.left_out + left_out
    if found.val is not None:
        val, unusable = usable_files(found.val, report)
        left_out += unusable
    names = found.classes
    kept = [index for index in range(len(names)) if train[index]]
    if found.val is not None:
        orphans = [path for index in range(len(names)) if index not in kept for path in val[index]]
        left_out += [LeftOut(path, "of no class", "its class has no image to train on") for path in orphans]
    if len(kept) < 2:
        reason = f"; {left_out[0].path}: {left_out[0].reason}" if left_out else ""
        raise PpclsExtError(
            f"{root} holds images of {len(kept)} classes, at least 2 are needed: one folder a class{reason}"
        )
    if found.val is None:
        split = [_split(train[index], val_share, f"{seed}/{names[index]}") for index in kept]
    else:
        split = [(train[index], val[index]) for index in kept]
    train_counts, val_counts = ([len(parts[part]) for parts in split] for part in (0, 1))
    made = ClassLists(
        root,
        folder,
        tuple(names[index] for index in kept),
        train_counts,
        val_counts,
        left_out,
        (sum(train_counts), sum(val_counts)),
    )
    if not any(made.val):
        raise PpclsExtError(f"{root} leaves no image to evaluate on: every class needs two at least")
    _write(made, split)
    return made


def check_share(val_share: float) -> None:
    """Raises PpclsExtError unless there is a share to train and one to evaluate on."""
    if not 0 < val_share < 1:
        raise PpclsExtError(f"the share of images to evaluate on is {val_share}: expected more than 0, less than 1")


def kept_lists(root: Path, folder: Path, task: str = SINGLE_LABEL) -> ClassLists:
    """Reads the lists that `make_lists`, or `make_label_lists` for "multi-label", wrote to `folder` earlier.

    Raises:
        PpclsExtError: a list is damaged, or an image is gone.
    """
    names = read_class_names(folder / LABEL_LIST)
    lists = [read_list(folder / name, root, len(names), task=task) for name in (TRAIN_LIST, VAL_LIST)]
    counted = [Counter(label for entry in images for label in entry.classes) for images in lists]
    train, val = ([counts[index] for index in range(len(names))] for counts in counted)
    return ClassLists(root.resolve(), folder, names, train, val, [], (len(lists[0]), len(lists[1])), task)


def _split(paths: Sequence[Path], val_share: float, seed: str) -> tuple[list[Path], list[Path]]:
    shuffled = list(paths)
    random.Random(seed).shuffle(shuffled)
    count = min(max(round(len(paths) * val_share), 1), len(paths) - 1)
    return sorted(shuffled[count:]), sorted(shuffled[:count])


def _write(made: ClassLists, split: Sequence[tuple[list[Path], list[Path]]]) -> None:
    for part, name in ((0, TRAIN_LIST), (1, VAL_LIST)):
        images = ((listed_path(path, made.root), label) for label, parts in enumerate(split) for path in parts[part])
        write_list(made.folder / name, list_text(images))
    write_list(made.folder / LABEL_LIST, class_names_text(made.classes))
    write_left_out(made.folder, made.left_out)


def write_left_out(folder: Path, left_out: Sequence[LeftOut]) -> None:
    """Writes left_out.txt, which names the files that the lists do not contain; or removes it where there are none."""
    if left_out:
        text = "".join(f"{item.path}\t{item.kind}\t{item.reason}\n" for item in left_out)
        write_list(folder / LEFT_OUT_LIST, text.encode(errors="backslashreplace").decode())
    else:
        (folder / LEFT_OUT_LIST).unlink(missing_ok=True)


def listed_path(path: Path, root: Path) -> str:
    """Returns a file's path as it stands in a list of the image root `root`."""
    text = path.relative_to(root).as_posix()
    # blanks at a line's start would be lost
    return f"./{text}" if text[0].isspace() or text[0] == "\ufeff" else text
