"""Files: written atomically, so that no reader sees half of one, and read within limits, so that none is endless."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import hashlib
import os
import re
import shutil
import stat
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO

from ppcls_ext.errors import NotRegularFileError, PpclsExtError

LONGEST_PART = 48
"""Characters of a file's name in that of its temporary file: of up to 4 bytes, where systems allow 255."""

LONGEST_STEM = 220
"""Bytes of a source's name in that of a file that is made of it, where systems allow 255 with all that follows."""

KINDS = {
    stat.S_IFIFO: "a FIFO",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
    stat.S_IFDIR: "a folder",
    stat.S_IFLNK: "a symbolic link",
}


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike, mode: str = "wb", **open_kwargs) -> Iterator[IO]:
    """Opens a temporary file beside `path`; on success it is flushed to disk and renamed to `path`.

    On any exception the temporary file is removed and an existing `path` is left as it was. Where `path` is a symbolic
    link, the file that it leads to is written and the link stays.

    Args:
        path: the final name. Missing parent folders are made.
        mode: "wb" or "w".
        **open_kwargs: passed to `open` (encoding, newline).

    Yields:
        The temporary file, open for writing.

    Raises:
        PpclsExtError: the folder cannot be made or written, the disk is full, or `path` exists and is either not a
            regular file (but a FIFO, a device, a folder) or write-protected.
    """
    path = Path(path)
    temporary = None
    try:
        target = Path(os.path.realpath(path))
        permissions = _permissions(target)
        target.parent.mkdir(parents=True, exist_ok=True)
        # a part of the name, which may be as long as the system allows
        handle, name = tempfile.mkstemp(prefix=f".{target.name[:LONGEST_PART]}.", suffix=".tmp", dir=target.parent)
        temporary = Path(name)
        with os.fdopen(handle, mode, **open_kwargs) as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        temporary.chmod(permissions)
        os.replace(temporary, target)
        temporary = None
    except OSError as error:
        advice = "choose a folder that is writable and has room"
        if error.errno == errno.ENAMETOOLONG:
            advice = "choose a shorter name"
        raise PpclsExtError(f"cannot write {path}: {error.strerror or error}; {advice}") from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def require_own_folder(target: Path, pattern: str, what: str) -> None:
    """Raises PpclsExtError if `target` exists and is no folder, or holds files whose names do not match `pattern`."""
    if target.exists() and not target.is_dir():
        raise PpclsExtError(f"cannot write {target}: it is {_kind(target.stat().st_mode)}; expected a folder")
    others = sorted(name for name in os.listdir(target) if not re.fullmatch(pattern, name)) if target.is_dir() else []
    if others:
        raise PpclsExtError(f"{target} holds {others[0]}, which belongs to no {what}: choose a folder of its own")


@contextlib.contextmanager
def folder_at_once(target: Path, pattern: str, first: str = "") -> Iterator[Path]:
    """Makes a new folder for a set of files; on success it takes the place of `target`, as one.

    On any exception it is removed and an existing `target` is left as it was. Where the system cannot exchange two
    folders (any but Linux, some network disks), an existing one is away for the moment between two renamings. In a
    folder that holds other files too, or cannot be renamed (a mounted disk, the working directory), the files are
    replaced one by one.

    Args:
        target: the final path, which is new or a folder.
        pattern: of the set's file names; what matches it in `target` and is not in the new folder is removed.
        first: the file that is replaced before the others.

    Yields:
        The new folder.

    Raises:
        PpclsExtError: it cannot be made or written, or the disk is full.
    """
    final = Path(os.path.realpath(target))
    new = None
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        names = os.listdir(final) if final.exists() else []
        is_whole = all(re.fullmatch(pattern, name) for name in names) and _can_be_renamed(final)
        new = Path(
            tempfile.mkdtemp(
                prefix=f".{final.name[:LONGEST_PART]}.", suffix=".new", dir=final.parent if is_whole else final
            )
        )
        new.chmod(0o777 & ~_umask())
        yield new
        new = _put_in_place(new, final, None if is_whole else pattern, first)
    except OSError as error:
        raise PpclsExtError(
            f"cannot write {target}: {error.strerror or error}; choose a folder that is writable and has room"
        ) from error
    except PpclsExtError as error:
        if new is None or str(new) not in str(error):
            raise
        raise PpclsExtError(str(error).replace(str(new), str(target))) from error
    finally:
        if new is not None:
            shutil.rmtree(new, ignore_errors=True)


def _put_in_place(new: Path, final: Path, pattern: str | None, first: str) -> Path:
    """Puts a new folder in the place of `final`, or with a pattern its files; returns the folder that is left over."""
    for path in (*new.rglob("*"), new):
        _flush(path)
    if pattern is not None:
        written, before = os.listdir(new), [name for name in os.listdir(final) if name != new.name]
        for name in sorted(written, key=lambda name: name != first):
            os.replace(new / name, final / name)
        for name in set(before).difference(written):
            if re.fullmatch(pattern, name):
                (final / name).unlink()
    elif not final.exists():
        os.rename(new, final)
    elif not _exchange(new, final):
        away = new.with_suffix(".old")
        os.rename(final, away)
        try:
            os.rename(new, final)
        except OSError:
            os.rename(away, final)
            raise
        new = away
    _flush(final if pattern is not None else final.parent)
    return new


def room(folder: str | os.PathLike) -> str:
    """Returns a remark: how much more the disk of `folder` takes."""
    return f"{shutil.disk_usage(folder).free / 2**20:,.1f} MiB are free on the disk of {Path(folder).parent}"


def _can_be_renamed(folder: Path) -> bool:
    """Whether another folder can take the place of `folder`, which may not exist yet."""
    if not os.access(folder.parent, os.W_OK):
        return not folder.exists()
    return not os.path.ismount(folder) and folder not in (Path.cwd(), *Path.cwd().parents)


def _flush(path: Path) -> None:
    with contextlib.suppress(OSError):  # where the system cannot flush folders
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _exchange(one: Path, other: Path) -> bool:
    """Exchanges two folders at once; returns whether the system can."""
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None) if sys.platform == "linux" else None
    here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    return rename is not None and rename(here, os.fsencode(one), here, os.fsencode(other), exchange) == 0


class FreeNames:
    """Names for the .png files that are made of other files, each given once, as two of these may have one name.

    Args:
        folder: the folder that they are for.
        sources: the files that they are made of; one in that folder is not written over.
        taken: further names that are given to none.
    """

    def __init__(self, folder: Path, sources: Iterable[str | os.PathLike], taken: Iterable[str] = ()) -> None:
        self._taken, self._next = set(taken), dict[str, int]()
        here, within = os.path.realpath(folder), dict[str, bool]()
        for source in sources:
            parent, name = os.path.split(source)
            if parent not in within:
                within[parent] = os.path.realpath(parent or ".") == here
            if within[parent]:
                self._taken.add(name)

    def take(self, stem: str, ending: str = "") -> str:
        """Returns the first of STEM.png, STEM-2.png, STEM-3.png, … that is free, and takes it.

        The time does not grow with the number of names. A stem that is too long for the system loses its end.

        Args:
            stem: of the source's name.
            ending: further characters of the new stem.
        """
        while len(os.fsencode(stem)) > LONGEST_STEM:
            stem = stem[:-1]
        stem += ending
        number = self._next.get(stem, 1)
        while (name := f"{stem}.png" if number == 1 else f"{stem}-{number}.png") in self._taken:
            number += 1
        self._next[stem] = number + 1
        self._taken.add(name)
        return name


def require_within(path: Path, folder: Path) -> None:
    """Raises PpclsExtError if `path`, a name below `folder`, leads out of it by a symbolic link."""
    real = Path(os.path.realpath(path))
    if not real.is_relative_to(os.path.realpath(folder)):
        raise PpclsExtError(
            f"cannot write {path}: it leads to {real}, out of {folder}, by a symbolic link; remove the link, or name "
            "another place"
        )


def require_plain(path: Path) -> None:
    """Raises PpclsExtError if `path` exists and is anything but a regular file: renaming would replace it."""
    with contextlib.suppress(FileNotFoundError):
        mode = path.lstat().st_mode
        if not stat.S_ISREG(mode):
            raise PpclsExtError(f"cannot write {path}: it is {_kind(mode)}; remove it or choose another folder")


def read_regular(path: str | os.PathLike, limit: int) -> bytes:
    """Reads a regular file; refuses a FIFO or device, which may never end, and a larger file.

    Args:
        path: the file, or a link to it.
        limit: the largest size in bytes.

    Raises:
        OSError: the file cannot be opened or read.
        NotRegularFileError: it is a FIFO, device, socket or folder.
        PpclsExtError: it is larger than `limit`.
    """
    with open(open_regular(path), "rb") as stream:
        size = os.fstat(stream.fileno()).st_size
        # of the size that it has, because a read allocates what it asks for; it may grow, and Linux tells 0 of some
        data = stream.read(size + 1) if size <= limit else b""
        if len(data) > size:
            data += stream.read(max(0, limit + 1 - len(data)))
    if max(size, len(data)) > limit:
        raise PpclsExtError(f"{path} is larger than the {limit:,} bytes that are read of such a file")
    return data


def open_regular(path: str | os.PathLike) -> int:
    """Opens a regular file for reading and returns its descriptor; raises as `read_regular` does."""
    # without O_NONBLOCK, opening a FIFO waits for a writer
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    mode = os.fstat(handle).st_mode
    if not stat.S_ISREG(mode):
        os.close(handle)
        raise NotRegularFileError(f"{path} is {_kind(mode)}: expected a regular file")
    return handle


def identical_files(paths: Iterable[Path], is_wanted: Callable[[Sequence[Path]], bool]) -> list[list[Path]]:
    """Groups files that have the same bytes.

    Args:
        paths: regular files.
        is_wanted: whether a group of files, which may still be split, is of interest; the others are not read further.

    Returns:
        The groups that are wanted, each in the order of `paths`.
    """
    groups = [list(paths)]
    # from the cheapest comparison to the dearest, so that few files of a large data set are read whole
    for key in (_size, _sample, _digest):
        parts: list[list[Path]] = []
        for group in groups:
            by_key = defaultdict(list)
            for path in group:
                by_key[key(path)].append(path)
            parts += by_key.values()
        groups = [part for part in parts if is_wanted(part)]
    return groups


def _size(path: Path) -> int:
    return path.stat().st_size


def _sample(path: Path) -> bytes:
    """Reads bytes from the middle, because the beginnings of JPEG files are often alike."""
    with open(path, "rb") as stream:
        stream.seek(_size(path) // 2)
        return stream.read(4096)


def _digest(path: Path) -> bytes:
    return hashlib.sha256(path.read_bytes()).digest()


def _permissions(target: Path) -> int:
    """Returns the existing file's permissions, else those that open() would give a new one (mkstemp's are private)."""
    try:
        mode = os.stat(target).st_mode
    except FileNotFoundError:
        return 0o666 & ~_umask()
    if not stat.S_ISREG(mode):
        raise PpclsExtError(f"cannot write {target}: it is {_kind(mode)}; expected a regular file or a new name")
    if not os.access(target, os.W_OK):
        raise PpclsExtError(f"cannot write {target}: it is write-protected; change that or choose a new name")
    return stat.S_IMODE(mode)


def _umask() -> int:
    umask = os.umask(0)
    os.umask(umask)
    return umask


def _kind(mode: int) -> str:
    return KINDS.get(stat.S_IFMT(mode), "not a regular file")
