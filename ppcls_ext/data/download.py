"""Downloading a file that is known by its md5, going on where a broken download stopped."""

from __future__ import annotations

import hashlib
import http.client
import urllib.error
import urllib.request
from pathlib import Path

from ppcls_ext.errors import PpclsExtError
from ppcls_ext.packages import import_extra

TIMEOUT_S = 30
_CHUNK_BYTES = 1 << 18


def file_md5(path: Path) -> str:
    """The md5 of a file's content, in hexadecimal."""
    digest = hashlib.md5(usedforsecurity=False)
    with open(path, "rb") as stream:
        while chunk := stream.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def download(url: str, path: Path, md5: str) -> None:
    """Downloads `url` to `path`; does nothing where `path` already has that md5.

    The bytes go to `path` + ".part", which stays when the connection breaks: this call goes on from there for as long
    as each new connection brings more, and so does the next call. The file gets its name when its md5 is right.

    Raises:
        PpclsExtError: the download stopped (the part stays), or has another md5 (the part is removed).
    """
    if path.is_file() and file_md5(path) == md5:
        return
    part = path.with_name(f"{path.name}.part")
    if not (part.is_file() and file_md5(part) == md5):
        _fetch_all(url, part)
        got = file_md5(part)
        if got != md5:
            part.unlink()
            raise PpclsExtError(
                f"{url}: got md5 {got}, expected {md5}; the file was removed; run the same command again, "
                f"or get {path.name} by other means and use --source"
            )
    part.replace(path)


def _fetch_all(url: str, part: Path) -> None:
    while True:
        before = _size(part)
        try:
            return _fetch(url, part)
        except (OSError, http.client.HTTPException) as error:
            if _size(part) <= before:
                raise PpclsExtError(
                    f"{url}: the download stopped after {_size(part)} bytes ({error}); run the same command again to "
                    "go on from there, or get the files by other means and use --source"
                ) from error


def _fetch(url: str, part: Path) -> None:
    """One connection: appends what is missing to `part`, or starts it anew where the server cannot go on."""
    start = _size(part)
    headers = {"User-Agent": "ppcls_ext"}
    if start:
        headers["Range"] = f"bytes={start}-"
    try:
        response = urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=TIMEOUT_S)
    except urllib.error.HTTPError as error:
        if error.code != http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE or not start:
            raise
        part.unlink()  # as long as the file or longer, and not the file
        return _fetch(url, part)
    with response:
        if response.status != http.HTTPStatus.PARTIAL_CONTENT:
            start = 0  # the server ignores Range and sends the whole file
        part.parent.mkdir(parents=True, exist_ok=True)
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
