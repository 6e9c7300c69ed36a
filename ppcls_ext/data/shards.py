"""Shards: tar files with many images each, for disks on which opening a file takes long.

Their layout is webdataset's, so that other tools stream them: for each image NUMBER.jpg, or with its own suffix, and
NUMBER.cls with its label. A list of such images names for each the shard, where in it the bytes of the image begin, how
many they are, and the path of the image before it was packed:

    train-000003.tar/1536+20480/n01440764/n01440764_10026.JPEG 7

The list is the index: any image is read at once, so that order, samplers, several processes and resuming are those of a
training on files.
"""

from __future__ import annotations

import io
import os
import re
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from ppcls_ext.errors import PpclsExtError
from ppcls_ext.files import atomic_write, open_regular

_MEMBER = re.compile(r"(.*\.tar)/(\d{1,15})\+(\d{1,12})/[^/].*", re.DOTALL)
_SUFFIX = re.compile(r"\.[a-z0-9]{1,8}")
FORMAT = tarfile.USTAR_FORMAT  # one block for each header, as names are short
MOST_SHARDS = 10**6
"""Shards of a list: their names have six digits."""


class Member(NamedTuple):
    """An image in a shard.

    Attributes:
        shard: the tar file.
        start: where in it the image's bytes begin.
        size: the number of bytes.
    """

    shard: str
    start: int
    size: int


def find_member(path: str) -> Member | None:
    """Returns the image in a shard that a path stands for; None for a path of a file."""
    found = _MEMBER.fullmatch(path) if ".tar/" in path else None
    return Member(found[1], int(found[2]), int(found[3])) if found else None


def is_there(path: str) -> bool:
    """Returns whether there is the file of an image, or the shard that holds it."""
    member = find_member(path)
    return os.path.isfile(path if member is None else member.shard)


def read_member(member: Member, limit: int) -> bytes:
    """Reads the bytes of an image in a shard.

    Args:
        member: the image.
        limit: the largest size in bytes.

    Raises:
        OSError: the shard cannot be opened or read.
        PpclsExtError: it is no regular file, or no file of that size begins there.
    """
    if member.size > limit:
        raise PpclsExtError(f"{member.size:,} bytes of {member.shard} are more than the {limit:,} that are read")
    with open(open_regular(member.shard), "rb") as shard:
        shard.seek(max(member.start - tarfile.BLOCKSIZE, 0))
        header = shard.read(min(tarfile.BLOCKSIZE, member.start))
        data = shard.read(member.size)
    try:
        found = tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        found = None
    if found is None or not found.isreg() or (found.size, len(data)) != (member.size, member.size):
        raise PpclsExtError(
            f"{member.shard} holds no file of {member.size} bytes at {member.start}: it is damaged, or not the one "
            "that the list was made with; pack the images again"
        )
    return data


def write_shards(
    folder: Path,
    prefix: str,
    images: Sequence[tuple[str, int]],
    read: Callable[[str], bytes],
    shards: int,
    report: Callable[[int, int], None] | None = None,
) -> list[str]:
    """Writes images to PREFIX-000000.tar, PREFIX-000001.tar, …: by turns, so that each shard has of all classes.

    Args:
        folder: where the shards are written.
        prefix: of their names.
        images: of each, its path and its label.
        read: returns the bytes of the image with a path.
        shards: how many.
        report: called after each image with (images done, images in all).

    Returns:
        The path of each image as a list of `folder` has it.

    Raises:
        PpclsExtError: there are fewer images than shards, or a shard cannot be written.
    """
    if not 1 <= shards <= min(len(images), MOST_SHARDS):
        raise PpclsExtError(f"{shards} shards of {len(images)} images: expected at least one image in each shard")
    paths, done = [""] * len(images), 0
    for shard in range(shards):
        name = f"{prefix}-{shard:06}.tar"
        with atomic_write(folder / name) as stream, tarfile.open(fileobj=stream, mode="w", format=FORMAT) as archive:
            for index in range(shard, len(images), shards):
                path, label = images[index]
                data, suffix = read(path), os.path.splitext(path)[1].lower()
                start = _add(archive, f"{index:09}{suffix if _SUFFIX.fullmatch(suffix) else '.img'}", data)
                _add(archive, f"{index:09}.cls", str(label).encode())
                paths[index] = f"{name}/{start}+{len(data)}/{path.lstrip('/')}"
                done += 1
                if report:
                    report(done, len(images))
    return paths


def _add(archive: tarfile.TarFile, name: str, data: bytes) -> int:
    """Adds a file, with the same bytes on every system and at any time; returns where its content begins."""
    entry = tarfile.TarInfo(name)
    entry.size = len(data)
    start = archive.offset + tarfile.BLOCKSIZE
    archive.addfile(entry, io.BytesIO(data))
    return start
