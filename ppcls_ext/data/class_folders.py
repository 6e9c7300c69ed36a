"""From folders of images, one per class, to PaddleClas's image lists.

The images lie in FOLDER/CLASS/…, or in FOLDER/train/CLASS/… and FOLDER/val/CLASS/… or FOLDER/test/CLASS/….
"""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

from ppcls_ext.data.image_files import LeftOut, counted, find_faults, images_below, is_hidden, reason_of
from ppcls_ext.data.image_rule import RGB
from ppcls_ext.data.lists import SINGLE_LABEL, class_names_text, list_text, read_class_names, read_list, write_list
from ppcls_ext.errors import PpclsExtError
from ppcls_ext.files import identical_files

#: The files that `make_lists` writes.
TRAIN_LIST, VAL_LIST, TEST_LIST = "train_list.txt", "val_list.txt", "test_list.txt"
LABEL_LIST, LEFT_OUT_LIST = "label_list.txt", "left_out.txt"
#: The names, in lower case, that the folder of each part of a split may have.
SPLITS = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation"),
    "test": ("test", "testing"),
}
SHOWN = 5  # classes that a message names
LAYOUT = "expected one folder a class, such as FOLDER/daisy and FOLDER/tulip, or these in FOLDER/train and FOLDER/val"

#: The image files of each class, by its name.
Files = Mapping[str, Sequence[Path]]
AnyLabel = TypeVar("AnyLabel", bound=Hashable)


class ClassFolders(NamedTuple):
    """The classes of a folder and their files.

    Attributes:
        root: the folder that was searched.
        classes: the names of the classes that have images to train on, in the order of their indices.
        train: the files of each class below FOLDER/train, or below FOLDER if there is no split.
        val: the files of each class below FOLDER/val; None if there is no such part.
        test: the files of each class below FOLDER/test; None if there is no such part.
        left_out: all other files and folders.
    """

    root: Path
    classes: tuple[str, ...]
    train: Files
    val: Files | None
    test: Files | None
    left_out: list[LeftOut]


def find_class_folders(root: Path) -> ClassFolders:
    """Finds the classes and their files; files with a suffix are not opened.

    A class is a folder of the first level, or of the first level of each part of a split; all images in it and below it
    belong to it (`images_below`).

    Raises:
        PpclsExtError: there is no such folder, or the split is unclear.
    """
    left_out: list[LeftOut] = []
    folders, parts = _find_parts(root, left_out)
    if not parts:
        files = _files(folders, left_out)
        return ClassFolders(root, _with_files(files, root, left_out), files, None, None, left_out)
    if "train" not in parts:
        raise PpclsExtError(f"{root} holds {next(iter(parts.values())).name}/, and no train/ to learn from: {LAYOUT}")
    found = {part: _files(_subfolders(path, left_out), left_out) for part, path in parts.items()}
    classes = _with_files(found["train"], parts["train"], left_out)
    for part in ("val", "test"):
        unknown = sorted(name for name, files in found.get(part, {}).items() if files and name not in classes)
        if unknown:
            raise PpclsExtError(
                f"{parts[part]} holds the class {unknown[0]!r}, and {parts['train']} has no images of it: "
                "a network can only be evaluated on classes it is trained on"
            )
    return ClassFolders(root, classes, found["train"], found.get("val"), found.get("test"), left_out)


def find_labelled_images(root: Path) -> tuple[Path, Files, list[LeftOut]]:
    """Finds the images to evaluate on: of the part test of a split, else of val or train, else of the folder itself.

    Returns:
        The folder of that part, the files of each class folder in it, and what is left out.

    Raises:
        PpclsExtError: there is no such folder, or the split is unclear.
    """
    left_out: list[LeftOut] = []
    folders, parts = _find_parts(root, left_out)
    for part in ("test", "val", "train"):
        if part in parts:
            return parts[part], _files(_subfolders(parts[part], left_out), left_out), left_out
    return root, _files(folders, left_out), left_out


def _find_parts(root: Path, left_out: list[LeftOut]) -> tuple[dict[str, Path], dict[str, Path]]:
    """Returns the folders in `root` by name, and those of them that are the parts of a split, by part."""
    if not root.is_dir():
        raise PpclsExtError(f"no folder of images {root}: {LAYOUT}")
    folders = _subfolders(root, left_out)
    part_of = {name: part for part, names in SPLITS.items() for name in names}
    named = {name: part_of[name.lower()] for name in folders if name.lower() in part_of}
    others = sorted(set(folders) - set(named))
    filled = {name: part for name, part in named.items() if _has_subfolder(folders[name])}
    if others and (len(set(filled.values())) < 2 or "train" not in filled.values()):
        return folders, {}  # a class may be called train
    if not named:
        return folders, {}
    parts: dict[str, Path] = {}
    for name, part in sorted(named.items()):
        if name not in filled:
            raise PpclsExtError(f"{folders[name]} is a part of a split, and holds no class folders: {LAYOUT}")
        if part in parts or others:
            held = f"{' and '.join(f'{held}/' for held in sorted(filled)[:2])}, and {(others or [name])[0]}/ too"
            raise PpclsExtError(f"{root} holds {held}: {LAYOUT}, and nothing else")
        parts[part] = folders[name]
    return folders, parts


def _has_subfolder(path: Path) -> bool:
    return any(entry.is_dir() and not is_hidden(entry.name) for entry in os.scandir(path))


def _subfolders(path: Path, left_out: list[LeftOut]) -> dict[str, Path]:
    """Returns the folders in `path` by name, and adds everything else to `left_out`."""
    folders = {}
    for entry in sorted(path.iterdir()):
        if is_hidden(entry.name):
            left_out.append(LeftOut(entry, "hidden", "it is hidden, or a system's own"))
        elif not entry.is_dir():
            left_out.append(LeftOut(entry, "outside the class folders", "it lies in no class folder"))
        elif reason := _unusable_name(entry.name):
            left_out.append(LeftOut(entry, "oddly named", reason))
        else:
            folders[entry.name] = entry
    return folders


def _files(folders: Mapping[str, Path], left_out: list[LeftOut]) -> dict[str, list[Path]]:
    """Returns the images in and below each class folder whose names a list can hold."""
    found: dict[str, list[Path]] = {}
    for name, folder in folders.items():
        images, others = images_below(folder)
        left_out += others
        reasons = {path: _unusable_name(path.relative_to(folder).as_posix()) for path in images}
        left_out += [LeftOut(path, "oddly named", reason) for path, reason in reasons.items() if reason]
        found[name] = [path for path in images if not reasons[path]]
    return found


def _in_order(names: dict) -> list[str]:
    """Sorts names; by number if all of them are numbers, so that folder 10 is class 10."""
    if all(name.isascii() and name.isdecimal() for name in names):
        return sorted(names, key=lambda name: (int(name), name))
    return sorted(names)


def _with_files(files: Files, root: Path, left_out: list[LeftOut]) -> tuple[str, ...]:
    left_out += [LeftOut(root / name, "empty folder", "it holds no image") for name in files if not files[name]]
    return tuple(_in_order({name: below for name, below in files.items() if below}))


def _unusable_name(name: str) -> str | None:
    if "\n" in name or "\r" in name:
        return "its name has a line break, which no list can hold"
    try:
        name.encode()
    except UnicodeEncodeError:
        return "its name is not UTF-8, which no list can hold"
    return None


def usable_files(
    classes: Sequence[Sequence[Path]], report: Callable[[int, int], None] | None = None, channels: int = RGB
) -> tuple[list[list[Path]], list[LeftOut]]:
    """Decodes every file of every class, and looks for byte-identical files.

    Args:
        classes: the files of each class.
        report: called after each file with (files done, files in all).
        channels: that the images are decoded to.

    Returns:
        The usable files of each class, and all others with the reason.
    """
    images = [(label, path) for label, files in enumerate(classes) for path in files]
    good, left_out = usable_images(images, "in several classes", "which class is right?", report, channels)
    kept: list[list[Path]] = [[] for _ in classes]
    for label, path in good:
        kept[label].append(path)
    return kept, left_out


def usable_images(
    images: Sequence[tuple[AnyLabel, Path]],
    kind: str,
    question: str,
    report: Callable[[int, int], None] | None = None,
    channels: int = RGB,
) -> tuple[list[tuple[AnyLabel, Path]], list[LeftOut]]:
    """Decodes every file, and looks for byte-identical ones.

    Of duplicates with one label the first is kept; duplicates with several are all left out, because theirs is unknown.

    Args:
        images: label and file of each image.
        kind: what is said of duplicates with several labels.
        question: and what is asked.
        report: called after each file with (files done, files in all).
        channels: that the images are decoded to.

    Returns:
        The usable images, and all others with the reason.
    """
    left_out, good = [], []
    for (label, path), fault in zip(images, find_faults([path for _, path in images], report, channels)):
        if fault is None:
            good.append((label, path))
        else:
            left_out.append(LeftOut(path, "unreadable", reason_of(fault)))
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
        folder: the folder of train_list.txt, val_list.txt, label_list.txt; of test_list.txt if FOLDER holds test/; and
            of left_out.txt if anything was left out.
        classes: the class names, in the order of their indices.
        train: the number of training images of each class.
        val: the number of validation images of each class.
        left_out: the files that the lists do not contain.
        images: the number of images to train on, and to evaluate on.
        test: the number of images of each class that are kept for the end; empty if there is no test/.
        task: "multi-label" where an image may be of several classes.
    """

    root: Path
    folder: Path
    classes: tuple[str, ...]
    train: list[int]
    val: list[int]
    left_out: list[LeftOut]
    images: tuple[int, int]
    test: Sequence[int] = ()
    task: str = SINGLE_LABEL

    def lines(self, are_kept: bool = True) -> list[str]:
        """Returns a summary for the terminal: the counts, what was left out, and classes without images in a part.

        Args:
            are_kept: whether the lists stay where they are, so that the user may read what was left out.
        """
        lines = [f"{len(self.classes)} classes, {self.images[0]} images to train on, {self.images[1]} to evaluate on"]
        if self.left_out:
            where = f"; {self.folder / LEFT_OUT_LIST} names them" if are_kept else ""
            lines.append(f"left out: {counted(self.left_out)}{where}")
        if any(self.test):
            lines.append(f"{sum(self.test)} images are kept for the end: ppcls-ext eval RUN --data {self.root}")
        lines += self._about_classes("no image of {} to train on", lambda train, val: val > 0 and not train)
        lines += self._about_classes("no image of {} to evaluate on", lambda train, val: train > 1 and not val)
        lines += self._about_classes("a single image of {}", lambda train, val: train + val == 1)
        return lines

    def _about_classes(self, text: str, holds: Callable[[int, int], bool]) -> list[str]:
        names = [name for name, *counts in zip(self.classes, self.train, self.val) if holds(*counts)]
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        return [text.format(f"{names[0]!r}{more}")] if names else []


def make_lists(
    root: str | os.PathLike,
    folder: str | os.PathLike,
    val_share: float = 0.2,
    seed: int = 0,
    report: Callable[[int, int], None] | None = None,
    classes: Sequence[str] | None = None,
    channels: int = RGB,
) -> ClassLists:
    """Writes the lists of a folder of class folders.

    Args:
        root: contains one folder per class, or these in train/, val/ and test/; see `find_class_folders`.
        folder: where to write the lists.
        val_share: the share of each class's images to evaluate on if there is no val/: at least one image of a class
            that has two, and never all.
        seed: RNG seed of the split; the same images and seed give the same lists.
        report: called after each decoded image with (images done, images in all).
        classes: the class names by index, of a run say; the names of the folders, in their order, where None.
        channels: that the images are decoded to.

    Raises:
        PpclsExtError: fewer than two classes have usable images, there is nothing to evaluate on, or a folder has the
            name of no class.
    """
    check_share(val_share)
    root, folder = Path(root).resolve(), Path(folder)
    found = find_class_folders(root)
    left_out, usable = list(found.left_out), {}
    names = found.classes if classes is None else tuple(classes)
    require_known(root, found.classes, names)
    for part, files in (("train", found.train), ("val", found.val), ("test", found.test)):
        if files is not None:
            usable[part], unusable = usable_files([files.get(name, ()) for name in names], report, channels)
            left_out += unusable
    with_images = {index for index, paths in enumerate(usable["train"]) if paths}
    if len(with_images) < (2 if classes is None else 1):
        reason = f"; {left_out[0].path}: {left_out[0].reason}" if left_out else ""
        raise PpclsExtError(
            f"{root} holds images of {len(with_images)} classes, at least 2 are needed: one folder a class{reason}"
        )
    kept = sorted(with_images) if classes is None else range(len(names))
    for part in ("val", "test"):
        for index in set(range(len(names))).difference(kept):
            reason = "its class has no image to train on"
            left_out += [LeftOut(path, "of no class", reason) for path in usable[part][index]] if part in usable else []
    usable = {part: [by_class[index] for index in kept] for part, by_class in usable.items()}
    if "val" not in usable:
        split = [_split(paths, val_share, f"{seed}/{names[index]}") for index, paths in zip(kept, usable["train"])]
        usable["train"], usable["val"] = [train for train, _ in split], [val for _, val in split]
    counts = {part: [len(paths) for paths in by_class] for part, by_class in usable.items()}
    made = ClassLists(
        root,
        folder,
        tuple(names[index] for index in kept),
        counts["train"],
        counts["val"],
        left_out,
        (sum(counts["train"]), sum(counts["val"])),
        counts.get("test", ()),
    )
    if not any(made.val):
        raise PpclsExtError(f"{root} leaves no image to evaluate on: every class needs two at least")
    _write(made, usable)
    return made


def check_share(val_share: float) -> None:
    """Raises PpclsExtError unless there is a share to train and one to evaluate on."""
    if not 0 < val_share < 1:
        raise PpclsExtError(f"the share of images to evaluate on is {val_share}: expected more than 0, less than 1")


def require_known(root: Path, folders: Sequence[str], classes: Sequence[str]) -> None:
    """Raises PpclsExtError where a folder in `root` has the name of none of the classes."""
    unknown = sorted(set(folders).difference(classes))
    if unknown:
        known = ", ".join(classes[:SHOWN]) + (", …" if len(classes) > SHOWN else "")
        raise PpclsExtError(
            f"{root / unknown[0]} is the folder of no class: expected {known or 'none, as no class has a name'}"
        )


def kept_lists(root: Path, folder: Path, task: str = SINGLE_LABEL) -> ClassLists:
    """Reads the lists that `make_lists`, or `make_label_lists` for "multi-label", wrote to `folder` earlier.

    Raises:
        PpclsExtError: a list is damaged, or an image is gone.
    """
    names = read_class_names(folder / LABEL_LIST)
    lists = [read_list(folder / name, root, len(names), task=task) for name in (TRAIN_LIST, VAL_LIST)]
    by_class = [Counter(label for entry in images for label in entry.classes) for images in lists]
    train, val = ([counts[index] for index in range(len(names))] for counts in by_class)
    return ClassLists(root.resolve(), folder, names, train, val, [], (len(lists[0]), len(lists[1])), task=task)


def _split(paths: Sequence[Path], val_share: float, seed: str) -> tuple[list[Path], list[Path]]:
    shuffled = list(paths)
    random.Random(seed).shuffle(shuffled)
    count = min(max(round(len(paths) * val_share), 1), len(paths) - 1)
    return sorted(shuffled[count:]), sorted(shuffled[:count])


def _write(made: ClassLists, images: Mapping[str, Sequence[Sequence[Path]]]) -> None:
    for part, name in (("train", TRAIN_LIST), ("val", VAL_LIST), ("test", TEST_LIST)):
        by_class = enumerate(images.get(part, ()))
        lines = [(listed_path(path, made.root), label) for label, paths in by_class for path in paths]
        if lines or part != "test":
            write_list(made.folder / name, list_text(lines))
        else:
            (made.folder / name).unlink(missing_ok=True)
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
