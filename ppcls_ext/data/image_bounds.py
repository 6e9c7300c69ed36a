"""What the file of an image may ask for: pixels, bytes and work, found in its headers before a decoder allocates.

A file of a few bytes may stand for any number of pixels, so memory and time are bounded by pixels and by what each
format repeats: tags, blocks, tiles, scans.
"""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Iterator
from typing import NamedTuple

from PIL import Image

from ppcls_ext.data import jpeg_file
from ppcls_ext.errors import PpclsExtError

OPTION = "PPCLS_EXT_MAX_IMAGE_PIXELS"
PIXELS = 89_478_485
"""The largest number of pixels of an image, where the environment variable `OPTION` gives no other: Pillow's own."""
PIXELS_OF_PILLOW = 2 * PIXELS
"""What `OPTION` may allow: beyond, Pillow refuses by itself."""
BYTES_PER_PIXEL = 4
"""A file may have this many times as many bytes as an image may have pixels."""
SIDE = 65_535
"""Pixels, which is what JPEG and TIFF's writers can tell; a longer line would be held several times."""
PARTS = 1 << 15
"""Chunks, segments, boxes, tags or blocks of a file, which Pillow goes through one by one."""
COPIES = 1 << 24
"""Bytes of tags that may be told twice: a damaged directory is read, one that unfolds is not."""
VALUES = 1 << 19
"""Numbers of one tag of a TIFF file, such as the offsets of its strips."""
SLOW = frozenset(("ppm", "ppm_plain", "bmp_rle"))
"""Pillow's decoders that are written in Python."""
SLOW_PIXELS = 1 << 21
JPEG_2000 = 4
"""A JPEG 2000 image may have this part of the pixels and bytes of others, of which OpenJPEG takes as long."""
HEADER = 1 << 16
"""Bytes of what precedes the pixels of a PPM image."""
TAG_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8}
TIFF = (b"II*\0", b"MM\0*", b"II\0*", b"MM*\0", b"II+\0", b"MM\0+")


def max_pixels() -> int:
    """Returns how many pixels an image may have.

    Raises:
        PpclsExtError: the environment variable is no number from 1 to `PIXELS_OF_PILLOW`.
    """
    text = os.environ.get(OPTION, "")
    if not text:
        return PIXELS
    if not re.fullmatch("[0-9]{1,9}", text) or not 1 <= int(text) <= PIXELS_OF_PILLOW:
        raise PpclsExtError(f"{OPTION} is {text[:40]!r}: expected a whole number from 1 to {PIXELS_OF_PILLOW:,}")
    return int(text)


def max_bytes() -> int:
    """Returns how many bytes the file of an image may have."""
    return BYTES_PER_PIXEL * max_pixels()


def require_size(width: int, height: int, part: int = 1) -> None:
    """Raises PpclsExtError where an image of `width` × `height` px is too large, or than a part of what is allowed."""
    most = max_pixels() // part
    if width * height > most:
        raise PpclsExtError(
            f"the image is too large: {width} × {height} px, and expected were at most {most:,}; scale it down, or set "
            f"{OPTION}"
        )
    if max(width, height) > SIDE:
        raise PpclsExtError(
            f"the image is too large: {width} × {height} px, and expected were at most {SIDE:,} px a side; cut it"
        )


def require_bounded(data: bytes) -> jpeg_file.Frame | None:
    """Refuses a file for what Pillow would do when it opens it, or a decoder with what Pillow does not look at.

    Of anything else, which is left to Pillow to refuse, nothing is said.

    Args:
        data: of a file of any kind.

    Returns:
        What a JPEG file tells of itself; None for other kinds.

    Raises:
        PpclsExtError: the image is too large, truncated, or made to take memory or time.
    """
    if data.startswith(b"\xff\xd8"):
        frame = jpeg_file.read_frame(data, PARTS)
        for tags in frame.tags:
            require_bounded_tags(tags)
        require_size(frame.width, frame.height)
        frame.require_data(data)
        frame.require_few_scans(data, max_pixels())
        return frame
    if data.startswith(b"\x89PNG"):
        _require_few_chunks(data)
    elif data.startswith(b"RIFF"):
        require_size(*_webp_size(data))
    elif data.startswith(TIFF):
        require_bounded_tags(data)
    elif data.startswith(b"GIF8"):
        _require_few_blocks(data)
    elif data.startswith((b"\xff\x4f\xff\x51", b"\0\0\0\x0cjP  ")):
        _require_bounded_codestream(data, _codestream(data))
    elif re.match(rb"P[1-6f]", data):
        _require_short_header(data)
    return None


def require_quick(image: Image.Image, data: bytes) -> None:
    """Raises PpclsExtError where Pillow would decode an opened image in Python and take minutes."""
    decoder = image.tile[0][0] if getattr(image, "tile", None) else ""  # type: ignore[attr-defined]
    if decoder in SLOW and image.width * image.height > SLOW_PIXELS:
        raise PpclsExtError(
            f"the image is too large for its kind, which takes long to decode: {image.width} × {image.height} px, and "
            f"expected were at most {SLOW_PIXELS:,}; save it as PNG"
        )
    if decoder == "ppm_plain" and data.count(b"#") > HEADER // 64:
        raise PpclsExtError("damaged image: it has thousands of comments")


def require_bounded_tags(data: bytes) -> None:
    """Raises PpclsExtError where the tags of a TIFF structure (a TIFF file, EXIF, MPF) tell the same bytes many times.

    Pillow before 13 reads every tag into memory of its own, also where thousands of tags lie in the same place.
    """
    _require_bounded_directory(data, _first_directory(data))


class Page(NamedTuple):
    """What a TIFF file tells of one of its images.

    Attributes:
        width: px.
        height: px.
        samples: numbers a pixel.
    """

    width: int
    height: int
    samples: int


def tiff_pages(data: bytes, most: int) -> list[Page]:
    """Returns the first pages of a TIFF file, up to `most`, and one at least.

    Raises:
        PpclsExtError: one of them is too large, or its tags tell the same bytes many times; or there is none.
    """
    pages: list[Page] = []
    seen: set[int] = set()
    at = _first_directory(data)
    while at and at not in seen and len(pages) < most:
        seen.add(at)
        _require_bounded_directory(data, at)
        tags = {tag: value for tag, _, count, value, _ in _directory(data, at) if count == 1}
        page = Page(tags.get(256, 0), tags.get(257, 0), tags.get(277, 1))
        require_size(page.width, page.height)
        pages.append(page)
        at = _next_directory(data, at)
    if not pages:
        raise PpclsExtError("damaged TIFF image: it has no directory")
    return pages


def _require_bounded_directory(data: bytes, at: int) -> None:
    total, tile = 0, {}
    for index, (tag, kind, count, value, place) in enumerate(_directory(data, at)):
        size = count * TAG_SIZES.get(kind, 0)
        # of a tag that the file does not hold as a whole, Pillow reads what there is
        total += min(size, max(0, len(data) - place)) if size > 4 else 0
        if total > len(data) + COPIES or index >= PARTS:
            raise PpclsExtError(f"damaged image: the tags of its {len(data):,} bytes unfold to {total:,} and more")
        if kind in (3, 4, 13, 16) and VALUES < count <= len(data):
            raise PpclsExtError(f"damaged image: its tag {tag} has {count:,} values, expected at most {VALUES:,}")
        if tag in (322, 323) and count == 1:
            tile[tag] = value
    if len(tile) == 2:
        require_size(tile[322], tile[323])


def _kinds(data: bytes) -> tuple[str, str, struct.Struct]:
    """How a TIFF file, small or big, writes its numbers: a place, the count of entries, an entry."""
    order = "<" if data[:2] == b"II" else ">"
    if 43 in data[2:4]:
        return order + "Q", order + "Q", struct.Struct(order + "HHQQ")
    return order + "I", order + "H", struct.Struct(order + "HHII")


def _first_directory(data: bytes) -> int:
    """The place of the first directory; 0 where there is none."""
    place, _, _ = _kinds(data)
    try:
        return struct.unpack_from(place, data, 8 if place[1] == "Q" else 4)[0]
    except struct.error:
        return 0


def _next_directory(data: bytes, at: int) -> int:
    """The place of the directory behind the one at `at`; 0 where there is none."""
    place, count, entry = _kinds(data)
    try:
        (entries,) = struct.unpack_from(count, data, at)
        return struct.unpack_from(place, data, at + struct.calcsize(count) + entries * entry.size)[0]
    except (struct.error, OverflowError):
        return 0


def _directory(data: bytes, at: int) -> Iterator[tuple[int, int, int, int, int]]:
    """The directory at `at`: of each tag number, type, count, its value where that is one number, and its place."""
    _, counted, entry = _kinds(data)
    order = counted[0]
    try:
        (entries,), at = struct.unpack_from(counted, data, at), at + struct.calcsize(counted)
        for _ in range(entries):
            tag, kind, count, place = entry.unpack_from(data, at)
            value = place
            if kind == 3:  # in the first two bytes of the field
                value = struct.unpack_from(order + "H", data, at + entry.size - (8 if entry.size == 20 else 4))[0]
            yield tag, kind, count, value, place
            at += entry.size
    except (struct.error, OverflowError):  # behind the end: Pillow says what is damaged
        return


def _require_few_chunks(data: bytes) -> None:
    at = 8
    for _ in range(PARTS):
        kind = data[at + 4 : at + 8]
        if len(kind) < 4 or kind == b"IEND":
            return
        at += 12 + int.from_bytes(data[at : at + 4], "big")
    raise PpclsExtError(f"damaged image: expected at most {PARTS:,} chunks")


def _require_few_blocks(data: bytes) -> None:
    """Of GIF's extensions before the first frame: Pillow before 13 copies all of a comment for each block of it."""
    flags = data[10] if len(data) > 10 else 0
    at, blocks = 13 + (6 << (flags & 7) if flags & 128 else 0), 0
    while data[at : at + 1] == b"!":
        at += 2
        while at < len(data) and data[at]:
            at += 1 + data[at]
            blocks += 1
            if blocks > PARTS // 2:
                raise PpclsExtError(f"damaged image: expected at most {PARTS // 2:,} blocks before its first frame")
        at += 1
        blocks += 1


def _webp_size(data: bytes) -> tuple[int, int]:
    """The size of the canvas, which Pillow's decoder allocates twice before it tells the size; 0 × 0 of other files."""
    kind, body = data[12:16], data[20:30].ljust(10, b"\0")
    if data[8:12] != b"WEBP":
        return 0, 0
    if kind == b"VP8X":
        return int.from_bytes(body[4:7], "little") + 1, int.from_bytes(body[7:10], "little") + 1
    if kind == b"VP8L":
        bits = int.from_bytes(body[1:5], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if kind == b"VP8 ":
        return int.from_bytes(body[6:8], "little") & 0x3FFF, int.from_bytes(body[8:10], "little") & 0x3FFF
    return 0, 0


def _codestream(data: bytes) -> int:
    """The place of a JPEG 2000 file's codestream; its end where there is none."""
    at = 0
    if data.startswith(b"\xff\x4f"):
        return at
    for _ in range(PARTS):
        length, header = int.from_bytes(data[at : at + 4], "big"), 8
        if length == 1:
            length, header = int.from_bytes(data[at + 8 : at + 16], "big"), 16
        if data[at + 4 : at + 8] == b"jp2c":
            return at + header
        if length < header or at + length > len(data):
            return len(data)
        at += length
    raise PpclsExtError(f"damaged image: expected at most {PARTS:,} boxes")


def _require_bounded_codestream(data: bytes, at: int) -> None:
    """Refuses many tiles, components, precincts and code blocks: OpenJPEG allocates for each of them."""
    if data[at : at + 4] != b"\xff\x4f\xff\x51" or len(data) < at + 42:
        return
    right, bottom, left, top, width, height, x, y, components = struct.unpack_from(">8IH", data, at + 8)
    require_size(max(right - left, 0), max(bottom - top, 0), JPEG_2000)
    if len(data) > max_bytes() // JPEG_2000:
        raise PpclsExtError(
            f"the image is too large: {len(data):,} bytes of JPEG 2000, and expected were at most "
            f"{max_bytes() // JPEG_2000:,}; set {OPTION}"
        )
    tiles = -(-max(right - x, 0) // (width or 1)) * -(-max(bottom - y, 0) // (height or 1))
    if components > 4 or tiles > 1024 + (right - left) * (bottom - top) // 512:
        raise PpclsExtError(
            f"the image has {components} components and {tiles:,} tiles: expected at most 4, and tiles of 1,024 px"
        )
    _require_large_blocks(data, at + 2)


def _require_large_blocks(data: bytes, at: int) -> None:
    """Looks into the headers of the image and of the parts of its tiles, from the first marker at `at` on."""
    tile_part = whole = 0
    for _ in range(PARTS):
        marker, length = data[at : at + 2], int.from_bytes(data[at + 2 : at + 4], "big")
        if marker == b"\xff\x90":  # the header of a part of a tile, which ends before its data
            tile_part, whole = at, int.from_bytes(data[at + 6 : at + 10], "big")
        elif marker == b"\xff\x93":
            if whole < 14:
                return
            at, length = tile_part + whole - 2, 0
        elif marker == b"\xff\x52":
            _require_blocks(data[at + 4 : at + 5], data[at + 9 : at + 2 + length])
        elif marker == b"\xff\x53":
            _require_blocks(data[at + 5 : at + 6], data[at + 6 : at + 2 + length])
        elif marker[:1] != b"\xff" or length < 2:
            return  # the end, or something for OpenJPEG to refuse
        at += 2 + length
    raise PpclsExtError(f"damaged image: expected at most {PARTS:,} parts of tiles")


def _require_blocks(style: bytes, fields: bytes) -> None:
    """`fields` are levels, the code blocks' width and height, their style, the transform, and sizes of precincts."""
    sizes = fields[5:] if style and style[0] & 1 else b""
    too_small = any(min(size & 15, size >> 4) < 5 - level for level, size in enumerate(reversed(sizes[:33])))
    if too_small or (len(fields) > 2 and fields[1] + fields[2] < 4):
        raise PpclsExtError("the image's code blocks or precincts are too small: expected at least 16 × 16 px")


def _require_short_header(data: bytes) -> None:
    """Of PPM images: Pillow goes through comments and blanks byte by byte."""
    header = re.sub(rb"#[^\r\n]*", b"", data[:HEADER])
    if len(data) > HEADER and len(header.split(None, 4)) < 4:
        raise PpclsExtError(f"damaged image: its header is longer than {HEADER:,} bytes")
