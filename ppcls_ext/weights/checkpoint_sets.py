"""Checkpoints as sets: all files of one save, or all of the save before.

A set is a manifest, PREFIX.json, and the files that it lists with their SHA-256. It is written in three steps:

1. each file NAME as NAME.new, flushed to disk;
2. the manifest, in the same way, and PREFIX.json.new is renamed to PREFIX.json: from now on the new set counts;
3. each NAME.new is renamed to NAME.

Of NAME and NAME.new a reader takes the one that has the listed SHA-256. Up to the renaming of step 2 that is NAME,
since step 1 leaves the old files alone; afterwards it is NAME.new until step 3 has renamed it to NAME. So the process
may be killed or the disk be full at any moment: all files that the manifest lists are there and complete. `finish`
completes step 3, which has to happen before the next step 1 may write over a NAME.new. Only the manifest on the disk
decides whether the new set counts: a signal may come between any two instructions.
"""

from __future__ import annotations

import contextlib
import glob
import hashlib
import os
import shlex
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ppcls_ext.errors import PpclsExtError
from ppcls_ext.files import require_plain
from ppcls_ext.weights.manifest import NEW, WHAT_TO_DO, belongs, dump_manifest, manifest_path, read_manifest

#: In a run's folder, what a new training writes to until its first checkpoints are complete.
FIRST_EPOCH = "first_epoch"


class CheckpointSet(NamedTuple):
    """A complete set.

    Attributes:
        prefix: the path without suffix, such as output/MobileOne_S0/latest.
        written: the time of writing, in nanoseconds since 1970.
        state: the state that `SetWriter.commit` was given.
        files: the present path of each file, by its name relative to the folder.
    """

    prefix: Path
    written: int
    state: dict[str, Any]
    files: dict[str, Path]

    def file(self, suffix: str) -> Path:
        """Returns the present path of PREFIX + `suffix`.

        Raises:
            PpclsExtError: the set has no such file.
        """
        name = self.prefix.name + suffix
        if name not in self.files:
            raise PpclsExtError(f"the checkpoint {self.prefix} has no {name}; it holds {', '.join(self.files)}")
        return self.files[name]


class SetWriter:
    """Writes one set: `add` its files, then `commit`; then, or after any failure, `close`.

    Args:
        prefix: the set's path without suffix. An interrupted earlier save of it is completed or undone first.

    Raises:
        PpclsExtError: (all methods) the folder cannot be written, the disk is full, or something other than a regular
            file has a name of the set.
    """

    def __init__(self, prefix: Path) -> None:
        self._prefix = prefix
        self._listed: dict[str, dict[str, Any]] = {}
        self._folder_is_new = not prefix.is_dir()  # PaddleClas develop's best_model/
        with _explained(prefix, prefix.parent):
            require_plain(manifest_path(prefix))
            finish(prefix)

    def add(self, path: Path, content: bytes | memoryview) -> None:
        """Writes a file of the set beside its final place, which is the prefix's folder or below."""
        name = path.relative_to(self._prefix.parent).as_posix()
        if not belongs(self._prefix, name):
            raise PpclsExtError(f"cannot write checkpoint {path}: that is not a name for a file of {self._prefix}")
        with _explained(path, self._prefix.parent):
            require_plain(path)
            self._listed[name] = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
            _write_new(path, content)

    def commit(self, state: Mapping[str, Any]) -> None:
        """Replaces the previous set by this one.

        Args:
            state: further JSON values to keep in the manifest.
        """
        path = manifest_path(self._prefix)
        with _explained(path, path.parent):
            before = _files_before(self._prefix)
            _write_new(path, dump_manifest(state, self._listed, time.time_ns()))
            flush_folder(path.parent)
            os.replace(_new(path), path)
            flush_folder(path.parent)
            for name in self._listed:
                os.replace(_new(path.parent / name), path.parent / name)
            flush_folder(path.parent)
            for name in before.difference(self._listed):
                (path.parent / name).unlink(missing_ok=True)

    def close(self) -> None:
        """Removes the files that `add` wrote if they are not committed; otherwise renames them to their final names."""
        with contextlib.suppress(OSError):
            finish(self._prefix)
        if self._folder_is_new:
            with contextlib.suppress(OSError):
                self._prefix.rmdir()  # only an empty one


def has_manifest(prefix: Path) -> bool:
    """Returns whether there is a set with this path without suffix; plain PaddleClas writes no manifest."""
    return manifest_path(prefix).is_file()


def read_set(prefix: Path) -> CheckpointSet:
    """Reads a set and checks every file of it.

    Raises:
        PpclsExtError: a file is missing, truncated or changed; the message names it.
    """
    manifest = read_manifest(prefix)
    files = {name: _find_intact(prefix.parent / name, facts) for name, facts in manifest.files.items()}
    return CheckpointSet(prefix, manifest.written, manifest.state, files)


def intact(path: Path) -> Path:
    """Returns the present path of a checkpoint file's content; `path` itself if no set is known to contain it.

    Raises:
        PpclsExtError: the set's manifest lists the file with other content.
    """
    prefix = path.with_name(path.name.split(".")[0])
    if not has_manifest(prefix):
        return path
    facts = read_manifest(prefix).files.get(path.name)
    return path if facts is None else _find_intact(path, facts)


def is_saved(path: Path) -> bool:
    """Returns whether a checkpoint file's content exists, under its name or not yet renamed to it by `commit`."""
    return path.is_file() or (_new(path).is_file() and has_manifest(path.with_name(path.name.split(".")[0])))


def find_newest(folder: Path) -> tuple[CheckpointSet | None, list[str]]:
    """Finds the set to resume from.

    `latest` comes first, since it is at most one epoch behind the others and the only one that every epoch renews; then
    the others, the newest first.

    Args:
        folder: the folder of the sets, or of one folder for each set (PaddleClas's `uniform_output_enabled`).

    Returns:
        The set, or None, and the faults of those that come before it in this order.
    """
    candidates, faults = [], []
    for manifest in sorted({*folder.glob("*.json"), *folder.glob("*/*.json")}):
        prefix = manifest.with_suffix("")
        if FIRST_EPOCH in manifest.relative_to(folder).parts:
            continue  # of a training that has no complete checkpoints yet
        if not [*prefix.parent.glob(f"{glob.escape(prefix.name)}.pdparams*")]:
            continue  # some other JSON file
        try:
            candidates.append((prefix.name == "latest", read_manifest(prefix).written, prefix))
        except PpclsExtError as error:
            faults.append(str(error))
    for _, _, prefix in sorted(candidates, reverse=True):
        try:
            found = read_set(prefix)
        except PpclsExtError as error:
            faults.append(str(error))
            continue
        if found.state.get("resumable"):
            return found, faults
    return None, faults


def how_to_resume(folder: Path) -> str:
    """Returns advice for the user whose training was stopped.

    Args:
        folder: the folder that it writes to, which is `FIRST_EPOCH` in the run's folder, or below it, at first.
    """
    first = next((above for above in (folder, *folder.parents[:1]) if above.name == FIRST_EPOCH), None)
    run = folder if first is None else first.parent
    found, _ = find_newest(run)
    if found is None:
        return f"begin again: {run} holds no checkpoint to resume from"
    if first is not None:
        return f"begin again: {run} is as it was before this training"
    place, epoch = shlex.quote(str(run)), found.state.get("epoch")
    return f"resume with the same command and --resume {place}: the checkpoint of epoch {epoch} is whole"


def finish(prefix: Path) -> None:
    """Completes an interrupted save: renames committed files to their final names, and removes the others."""
    _new(manifest_path(prefix)).unlink(missing_ok=True)
    # PaddleClas develop writes the best weights once more, as best_model/model.pdparams
    left = [*prefix.parent.glob(f"{glob.escape(prefix.name)}*{NEW}"), *prefix.glob(f"model.*{NEW}")]
    targets = [(path, path.with_name(path.name[: -len(NEW)])) for path in left]
    names = {path: target.relative_to(prefix.parent).as_posix() for path, target in targets}
    targets = [(path, target) for path, target in targets if belongs(prefix, names[path])]
    if not targets:
        return
    try:
        files = read_manifest(prefix).files
    except PpclsExtError:
        files = {}  # the first save of this set, or a manifest damaged later
    for path, target in targets:
        facts = files.get(names[path])
        if facts is not None and not _has(target, facts) and _has(path, facts):
            os.replace(path, target)
        else:
            path.unlink(missing_ok=True)
    flush_folder(prefix.parent)


def _new(path: Path) -> Path:
    return path.with_name(path.name + NEW)


def _files_before(prefix: Path) -> set[str]:
    try:
        return set(read_manifest(prefix).files)
    except PpclsExtError:
        return set()


def _find_intact(path: Path, facts: Mapping[str, Any]) -> Path:
    for candidate in (path, _new(path), path):  # the first again: another process may just have renamed it
        if _has(candidate, facts):
            return candidate
    size = path.stat().st_size if path.is_file() else None
    state = "missing" if size is None else f"{size:,} bytes long" if size != facts["size"] else "changed"
    raise PpclsExtError(
        f"checkpoint {path} is damaged: it is {state}, and {facts['size']:,} bytes with another checksum were written; "
        f"{WHAT_TO_DO}"
    )


def _has(path: Path, facts: Mapping[str, Any]) -> bool:
    """Returns whether `path` is a file with the listed content."""
    digest = hashlib.sha256()
    try:
        if not path.is_file() or path.stat().st_size != facts["size"]:
            return False
        with open(path, "rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return digest.hexdigest() == facts["sha256"]


def _write_new(path: Path, content: bytes | memoryview) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with open(_new(path), "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
    except BaseException:
        with contextlib.suppress(OSError):
            _new(path).unlink()
        raise


def flush_folder(folder: Path) -> None:
    """Makes renamings in `folder` survive a power cut, if the system can flush folders."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


@contextlib.contextmanager
def _explained(path: Path, folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = f"{error.strerror or error}; make room, then {how_to_resume(folder)}"
        raise PpclsExtError(f"cannot write checkpoint {path}: {reason}") from error
