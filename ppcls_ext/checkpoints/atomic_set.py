"""Checkpoints as sets: all files of one save, or all of the save before.

A set is a manifest, PREFIX.json, and the files that it lists with their SHA-256. It is written in three steps:

1. each file NAME as NAME.new, flushed to disk;
2. the manifest, in the same way, and PREFIX.json.new is renamed to PREFIX.json: from now on the new set counts;
3. each NAME.new is renamed to NAME.

A reader takes, of NAME and NAME.new, the one that has the listed SHA-256. Up to the renaming of step 2 that is NAME, as
step 1 leaves the old files alone; from then on NAME.new or, once step 3 has come to it, NAME. So a process may be
killed, or the disk be full, at any moment: what the manifest lists is there, whole. `finish` does what is left of
step 3, and has to before the next step 1 may write over a NAME.new.
"""

from __future__ import annotations

import contextlib
import glob
import hashlib
import json
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ppcls_ext.errors import PpclsExtError

NEW = ".new"
WHAT_TO_DO = "use another checkpoint"


class CheckpointSet(NamedTuple):
    """A complete set.

    Attributes:
        prefix: the path without suffix, such as output/MobileOne_S0/latest.
        written: when, in nanoseconds since 1970.
        state: what was handed to `SetWriter.commit`.
        files: where each file is at present, by its name relative to the folder.
    """

    prefix: Path
    written: int
    state: dict[str, Any]
    files: dict[str, Path]

    def file(self, suffix: str) -> Path:
        """Where PREFIX + `suffix` is.

        Raises:
            PpclsExtError: the set has no such file.
        """
        name = self.prefix.name + suffix
        if name not in self.files:
            raise PpclsExtError(f"the checkpoint {self.prefix} has no {name}; it holds {', '.join(self.files)}")
        return self.files[name]


class SetWriter:
    """Writes one set: `add` its files, then `commit`; or `abandon` it, which leaves the set before.

    Args:
        prefix: the set's path without suffix. What an interrupted save of it left is put in order first.

    Raises:
        PpclsExtError: (all methods) the folder cannot be written or the disk is full.
    """

    def __init__(self, prefix: Path) -> None:
        self._prefix = prefix
        self._listed: dict[str, dict[str, Any]] = {}
        self._committed = False
        with _explained(prefix):
            finish(prefix)

    def add(self, path: Path, content: bytes | memoryview) -> None:
        """Writes a file of the set beside its final place, which is the prefix's folder or below."""
        name = path.relative_to(self._prefix.parent).as_posix()
        self._listed[name] = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        with _explained(path):
            _write_new(path, content)

    def commit(self, state: Mapping[str, Any]) -> None:
        """Puts the set in the place of the one before.

        Args:
            state: anything else to keep, as JSON can hold it.
        """
        listed = {"written": time.time_ns(), "state": dict(state), "files": self._listed}
        manifest = {"set": listed, "sha256": _digest(listed)}
        path = _manifest(self._prefix)
        with _explained(path):
            before = _files_before(path)
            _write_new(path, json.dumps(manifest, indent=1).encode())
            _flush_folder(path.parent)
            os.replace(_new(path), path)
            self._committed = True
            _flush_folder(path.parent)
            for name in self._listed:
                os.replace(_new(path.parent / name), path.parent / name)
            _flush_folder(path.parent)
            for name in before.difference(self._listed):
                (path.parent / name).unlink(missing_ok=True)

    def abandon(self) -> None:
        """Removes what `add` wrote, unless it is committed."""
        if not self._committed:
            for path in (_manifest(self._prefix), *(self._prefix.parent / name for name in self._listed)):
                with contextlib.suppress(OSError):
                    _new(path).unlink()


def has_manifest(prefix: Path) -> bool:
    """Whether there is a set of this path without suffix; plain PaddleClas writes none."""
    return _manifest(prefix).is_file()


def read_set(prefix: Path) -> CheckpointSet:
    """Reads a set and checks every file of it.

    Raises:
        PpclsExtError: a file is missing, truncated or changed; the message names it.
    """
    listed = _read_manifest(_manifest(prefix))
    files = {name: _find_intact(prefix.parent / name, facts) for name, facts in listed["files"].items()}
    return CheckpointSet(prefix, listed["written"], listed["state"], files)


def intact(path: Path) -> Path:
    """Where the content of a checkpoint's file is at present; `path` itself where no set is known to hold it.

    Raises:
        PpclsExtError: the set's manifest lists the file with another content.
    """
    manifest = _manifest_of(path)
    if not manifest.is_file():
        return path
    facts = _read_manifest(manifest)["files"].get(path.name)
    return path if facts is None else _find_intact(path, facts)


def find_newest(folder: Path) -> tuple[CheckpointSet | None, list[str]]:
    """The set to resume from, and what is wrong with those that come before it.

    `latest` comes first, being at most one epoch behind the others and the only one that every epoch renews; then the
    others, the newest first.

    Args:
        folder: of the sets, or of one folder for each, where PaddleClas writes it (`uniform_output_enabled`).
    """
    candidates, faults = [], []
    for manifest in sorted({*folder.glob("*.json"), *folder.glob("*/*.json")}):
        prefix = manifest.with_suffix("")
        if not [*prefix.parent.glob(f"{glob.escape(prefix.name)}.pd*")]:
            continue  # some other JSON file
        try:
            candidates.append((prefix.name == "latest", _read_manifest(manifest)["written"], prefix))
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


def finish(prefix: Path) -> None:
    """Does what is left of an interrupted save: puts in place what is committed, removes what is not."""
    manifest = _manifest(prefix)
    _new(manifest).unlink(missing_ok=True)
    # PaddleClas develop writes the best weights once more, as best_model/model.pdparams
    left = [
        *prefix.parent.glob(f"{glob.escape(prefix.name)}.*{NEW}"),
        *prefix.parent.glob(f"{prefix.name}/model.*{NEW}"),
    ]
    if not left:
        return
    try:
        files = _read_manifest(manifest)["files"]
    except PpclsExtError:
        files = {}  # the first save of this set, or a manifest damaged later
    for path in left:
        target = path.with_name(path.name[: -len(NEW)])
        facts = files.get(target.relative_to(prefix.parent).as_posix())
        if facts is not None and not _has(target, facts) and _has(path, facts):
            os.replace(path, target)
        else:
            path.unlink()
    _flush_folder(prefix.parent)


def _manifest(prefix: Path) -> Path:
    return prefix.with_name(f"{prefix.name}.json")


def _manifest_of(path: Path) -> Path:
    return _manifest(path.with_name(path.name.split(".")[0]))


def _new(path: Path) -> Path:
    return path.with_name(path.name + NEW)


def _files_before(manifest: Path) -> set[str]:
    try:
        return set(_read_manifest(manifest)["files"])
    except PpclsExtError:
        return set()


def _read_manifest(path: Path) -> dict[str, Any]:
    try:
        manifest = json.loads(path.read_bytes())
        listed = manifest["set"]
        if manifest["sha256"] != _digest(listed):
            raise ValueError("its checksum is wrong")
    except OSError as error:
        raise PpclsExtError(f"cannot read the checkpoint's manifest {path}: {error.strerror or error}") from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise PpclsExtError(f"the checkpoint's manifest {path} is damaged: {error}; {WHAT_TO_DO}") from None
    return listed


def _digest(listed: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(listed, sort_keys=True).encode()).hexdigest()


def _find_intact(path: Path, facts: Mapping[str, Any]) -> Path:
    for candidate in (path, _new(path), path):  # once more: another process may just have renamed it
        if _has(candidate, facts):
            return candidate
    size = path.stat().st_size if path.is_file() else None
    size = path.stat().st_size if path.is_file() else None
    state = "missing" if size is None else f"{size:,} bytes long" if size != facts["size"] else "changed"
    raise PpclsExtError(
        f"checkpoint {path} is damaged: it is {state}, and {facts['size']:,} bytes with another checksum were written; "
        f"{WHAT_TO_DO}"
    )


def _has(path: Path, facts: Mapping[str, Any]) -> bool:
    """Whether `path` is a file with the listed content."""
    digest = hashlib.sha256()
    try:
        if path.stat().st_size != facts["size"]:
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


def _flush_folder(folder: Path) -> None:
    """Makes renamings in `folder` survive a power cut, where the system lets folders be flushed."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


@contextlib.contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise PpclsExtError(
            f"cannot write checkpoint {path}: {error.strerror or error}; the checkpoints before it are whole: make "
            "room, then resume with -o Global.checkpoints=latest"
        ) from error
