"""Downloading a file, resuming where a broken download stopped.

The library for this, pooch (1.9), starts every download from the beginning: a connection that breaks in the last of 350
MB costs all of them again. So the resuming is written here.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import http.client
import json
import os
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from ppcls_ext.errors import PpclsExtError
from ppcls_ext.packages import import_extra

TIMEOUT_S = 30
_CHUNK_BYTES = 1 << 18


def file_md5(path: Path) -> str:
    """Returns the MD5 digest of a file's content, in hexadecimal."""
    digest = hashlib.md5(usedforsecurity=False)
    with open(path, "rb") as stream:
        while chunk := stream.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def download(url: str, path: Path, md5: str | None = None, *, instead: str) -> None:
    """Downloads `url` to `path`; does nothing if `path` exists already and has that digest.

    The bytes go to `path` + ".part", which stays when the connection breaks: this call resumes there for as long as
    each new connection brings more, and so does the next call if the server still has the same file. The file is
    renamed to `path` when it is complete and its MD5 is right: the given one, or else the one that the server states.

    Args:
        url: the address of the file.
        path: the file to write.
        md5: the expected digest in hexadecimal; None if it is unknown.
        instead: advice for the message of a failed download.

    Raises:
        PpclsExtError: the download stopped (the part stays), or has another md5 (the part is removed).
    """
    if path.is_file() and (md5 is None or file_md5(path) == md5):
        return
    part = path.with_name(f"{path.name}.part")
    with _alone(part, instead):
        if path.is_file() and (md5 is None or file_md5(path) == md5):
            return  # by another process, while this one waited
        if md5 is None or not (part.is_file() and file_md5(part) == md5):
            _fetch_all(url, part, instead)
            expected = md5 or _Origin.of(part).md5
            if expected and (got := file_md5(part)) != expected:
                part.unlink()
                _Origin.of(part).forget()
                raise PpclsExtError(
                    f"{url}: got md5 {got}, expected {expected}; the file was removed; run the same command again, "
                    f"or {instead}"
                )
        _Origin.of(part).forget()
        part.replace(path)


class _Origin:
    """What the server stated about a partly downloaded file, stored beside its .part.

    Attributes:
        path: the file that stores it.
        version: a strong ETag or a date, which tells whether the rest still belongs to the part; None if unknown.
        md5: the digest in hexadecimal; None if the server states none.
    """

    def __init__(self, path: Path, version: str | None = None, md5: str | None = None) -> None:
        self.path, self.version, self.md5 = path, version, md5

    @classmethod
    def of(cls, part: Path) -> _Origin:
        path = part.with_name(f"{part.name}.origin")
        try:
            known = json.loads(path.read_text(encoding="utf-8"))
            return cls(path, known["version"], known["md5"])
        except (OSError, ValueError, TypeError, KeyError):
            return cls(path)

    def remember(self, headers: http.client.HTTPMessage) -> None:
        # only a strong ETag, or else the date, tells whether the rest belongs to the part (RFC 9110, If-Range)
        tag = headers["ETag"]
        self.version = tag if tag and not tag.startswith("W/") else headers["Last-Modified"]
        with contextlib.suppress(TypeError, ValueError):
            self.md5 = base64.b64decode(headers["Content-MD5"], validate=True).hex() or None
        self.path.write_text(json.dumps({"version": self.version, "md5": self.md5}), encoding="utf-8")

    def forget(self) -> None:
        self.path.unlink(missing_ok=True)


@contextlib.contextmanager
def _alone(part: Path, instead: str) -> Iterator[None]:
    """Keeps other processes, such as those of one launch, from downloading the same file at the same time."""
    lock = import_extra("filelock").FileLock(part.with_name(f"{part.name}.lock"))
    is_new = not part.parent.exists()
    try:
        part.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
        while not os.path.exists(lock.lock_file):  # removed by the process that had it before
            lock.release()
            lock.acquire()
    except OSError as error:
        raise PpclsExtError(
            f"cannot write {part.parent}: {error.strerror or error}; choose a folder that can be written, or {instead}"
        ) from None
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # Windows does not remove an open file; there filelock does it afterwards
            Path(lock.lock_file).unlink()
        lock.release()
        if is_new:
            with contextlib.suppress(OSError):  # not empty
                part.parent.rmdir()


def _fetch_all(url: str, part: Path, instead: str) -> None:
    while True:
        before = _size(part)
        try:
            return _fetch(url, part)
        except (OSError, http.client.HTTPException) as error:
            if _size(part) <= before:
                where = f"stopped after {_size(part)} bytes" if _size(part) else "did not begin"
                again = "run the same command again to go on from there" if _size(part) else "check the network"
                raise PpclsExtError(f"{url}: the download {where} ({error}); {again}, or {instead}") from error


def _fetch(url: str, part: Path) -> None:
    """Appends the missing bytes to `part` over one connection, or starts it anew if the server cannot resume."""
    start, origin = _size(part), _Origin.of(part)
    headers = {"User-Agent": "ppcls_ext"}
    if start:
        headers["Range"] = f"bytes={start}-"
        if origin.version:
            headers["If-Range"] = origin.version
    try:
        response = urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=TIMEOUT_S)
    except urllib.error.HTTPError as error:
        if error.code != http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE or not start:
            raise
        part.unlink()  # as long as the file or longer, and not the file
        return _fetch(url, part)
    with response:
        if response.status != http.HTTPStatus.PARTIAL_CONTENT:
            start = 0  # the server ignores Range, or has another file by now: it sends all of it
        part.parent.mkdir(parents=True, exist_ok=True)
        if not start:
            origin.remember(response.headers)
        length = response.headers["Content-Length"]
        total = start + int(length) if length else None
        bar = import_extra("tqdm").tqdm(
            desc=part.stem, total=total, initial=start, unit="B", unit_scale=True, unit_divisor=1024, disable=None
        )
        with bar, open(part, "ab" if start else "wb") as stream:
            while chunk := response.read(_CHUNK_BYTES):
                stream.write(chunk)
                bar.update(len(chunk))
    # a connection that closes early looks like the end of the file to read()
    if total is not None and _size(part) < total:
        raise ConnectionError(f"the connection closed at {_size(part)} of {total} bytes")
    return None


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
