"""The first epoch of a new training: its files stay aside, so that an earlier run is lost to nothing but a result.

Until its first checkpoints are complete a training writes to `first_epoch/` in the run's folder. Then `put_in_place`

1. renames `first_epoch` to `.replacing`: from now on the new training counts;
2. removes what is left of the earlier training;
3. renames `.replacing` to `.replaced`;
4. moves the files in it to the run's folder.

The process may be killed at any moment: each step can be done again, and the folders' names tell which are left.
Whoever opens the run next (`settle`) does them. The user's own files stay: only names of `EARLIER` are removed.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from ppcls_ext.data.class_folders import LABEL_LIST, LEFT_OUT_LIST, TEST_LIST, TRAIN_LIST, VAL_LIST
from ppcls_ext.errors import PpclsExtError
from ppcls_ext.files import require_within
from ppcls_ext.models.table import MODELS
from ppcls_ext.weights.checkpoint_sets import FIRST_EPOCH, flush_folder
from ppcls_ext.weights.folder_lock import hold, is_held, release

CONFIG, RECORD, LISTS = "config.yml", "run.json", "lists"
REPLACING, REPLACED = ".replacing", ".replaced"
LONGEST = 10.0
"""Seconds to wait for another process that puts a new training's files in their place."""

_SETS = r"(best_model|latest|epoch_\d+)"
_SET_FILES = r"(_student)?\.(json|info\.json|pdparams|ema\.pdparams|pdema|pdopt|pdstates)(\.new)?"
_LISTS = "|".join(map(re.escape, (TRAIN_LIST, VAL_LIST, TEST_LIST, LABEL_LIST, LEFT_OUT_LIST)))
#: The checkpoints of a training and what was exported from them, relative to the folder of a run; ARCH is the name of a
#: model or of the run.
VALUABLE = (
    rf"({_SETS}/)?{_SETS}{_SET_FILES}",
    rf"({_SETS}/){{1,2}}model{_SET_FILES}",
    rf"({_SETS}/)?inference(_ema)?/inference\w*\.(json|pdmodel|pdiparams|pdiparams\.info|yml|sha256)",
    r"ARCH(_int8|_fp16)?\.onnx",
)
#: These, and everything else that a training or a later command writes there by itself, but for the training's log.
EARLIER = (
    *VALUABLE,
    r"config\.yml|run\.json|train_results\.json|metrics\.csv|(curves|data|batch)\.png|(eval|infer|export)\.log",
    rf"lists/({_LISTS})",
    r"report(-eval)?/((confusion|reliability|mistakes|average_precision)\.png|(per_class|confused_pairs)\.csv|"
    r"report\.html)",
    r"vdl/.*",
    r"inference/\.(export-[^/]*|inference\.[^/]*\.new)/.*",
    r"(.*/)?\.[^/]*\.tmp",
    r"\.(report|report-eval|inference)\.[^/]*\.(new|old)/.*",
)
_FOLDERS = rf"\.(report|report-eval|inference)\.[^/]*\.(new|old)|lists|report(-eval)?|inference|vdl|{_SETS}"


def files_of(folder: Path, patterns: tuple[str, ...]) -> list[Path]:
    """The files in a run's folder that match one of the patterns, which are those above."""
    # the folder is called as the model, unless the run has a name of its own
    names = "|".join(map(re.escape, (folder.name, *(() if folder.name in MODELS else MODELS))))
    wanted = re.compile("|".join(f"({pattern})" for pattern in patterns).replace("ARCH", f"({names})"))
    entries = sorted(folder.iterdir()) if folder.is_dir() else []
    below = [entry for entry in entries if re.fullmatch(_FOLDERS, entry.name) and not entry.is_symlink()]
    found = [*(entry for entry in entries if entry not in below), *(path for top in below for path in top.rglob("*"))]
    return [
        path
        for path in found
        if (path.is_symlink() or not path.is_dir()) and wanted.fullmatch(path.relative_to(folder).as_posix())
    ]


def require_own_places(folder: Path) -> None:
    """Raises PpclsExtError where a file or folder that a training writes in `folder` is a link that leads out of it."""
    others = rf"train\.log|{FIRST_EPOCH}|{re.escape(REPLACING)}|{re.escape(REPLACED)}|({_FOLDERS})(/.*)?"
    for path in files_of(folder, (*EARLIER, others)):
        if path.is_symlink():
            require_within(path, folder)


def begin_aside(folder: Path) -> Path:
    """Makes the folder that a new training in `folder`, which this process holds, writes to; returns its path.

    Raises:
        PpclsExtError: it cannot be made.
    """
    settle(folder)
    discard(folder)
    place = folder / FIRST_EPOCH
    with _explained(place):
        place.mkdir(parents=True)
    return place


def discard(folder: Path) -> None:
    """Removes what a training has written aside that has come to no checkpoint.

    Raises:
        PpclsExtError: it cannot be removed.
    """
    place = folder / FIRST_EPOCH
    with _explained(place), contextlib.suppress(FileNotFoundError):
        shutil.rmtree(place)


def put_in_place(folder: Path) -> None:
    """Puts a new training's files in the place of the earlier training's.

    Raises:
        PpclsExtError: a file cannot be moved or removed; whoever opens the run next tries again.
    """
    with _explained(folder):
        _flush_below(folder / FIRST_EPOCH)
        os.rename(folder / FIRST_EPOCH, folder / REPLACING)
        flush_folder(folder)
    settle(folder)


def settle(folder: Path) -> None:
    """Completes `put_in_place` where a killed process left it, or waits for the process that is at it.

    Raises:
        PpclsExtError: it cannot be completed.
    """
    end = time.monotonic() + LONGEST
    while _is_between(folder):
        mine = is_held(folder)
        try:
            hold(folder)
        except PpclsExtError:
            if time.monotonic() > end:
                raise
            time.sleep(0.02)
            continue
        try:
            with _explained(folder):
                _replace(folder)
        finally:
            if not mine:
                release(folder)


def _is_between(folder: Path) -> bool:
    return any(_is_folder(folder / name) for name in (REPLACING, REPLACED))


def _is_folder(path: Path) -> bool:
    """Whether it is a folder of a training's own; a link is somebody else's."""
    return path.is_dir() and not path.is_symlink()


def _replace(folder: Path) -> None:
    """Does what is left of the steps 2 to 4, in a folder that this process holds."""
    replacing, replaced = folder / REPLACING, folder / REPLACED
    if _is_folder(replacing):
        earlier = files_of(folder, EARLIER)
        newest = max((path for path in earlier if path.parent.name == "vdl"), default=None)  # the new training's own
        for path in sorted(earlier, key=lambda path: path.name != CONFIG):
            if path != newest:
                path.unlink(missing_ok=True)
        emptied = {above for path in earlier for above in path.parents if folder in above.parents}
        for path in sorted(emptied, key=lambda path: -len(path.parts)):
            with contextlib.suppress(OSError):
                path.rmdir()  # only an empty one
        flush_folder(folder)
        os.rename(replacing, replaced)
        flush_folder(folder)
    if _is_folder(replaced):
        files = [path for path in replaced.rglob("*") if not path.is_dir()]
        for path in sorted(files, key=lambda path: path.name == CONFIG):
            target = folder / path.relative_to(replaced)
            require_within(target.parent, folder)
            target.parent.mkdir(parents=True, exist_ok=True)
            os.replace(path, target)
            flush_folder(target.parent)
        shutil.rmtree(replaced)


def _flush_below(place: Path) -> None:
    for path in (place, *place.rglob("*")):
        if path.is_dir():
            flush_folder(path)


@contextlib.contextmanager
def _explained(place: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise PpclsExtError(
            f"cannot write {error.filename or place}: {error.strerror or error}; make the folder and what is in it "
            "writable, or choose another Global.output_dir"
        ) from error
