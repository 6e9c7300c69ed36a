"""JPEG files: what they tell before they are decoded, and whether libjpeg filled them up with grey."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from typing import NamedTuple

from PIL import Image

from ppcls_ext.errors import PpclsExtError

SCANS = 100
"""Scans of an image; a progressive one has about ten."""
SCANS_OF_LARGEST = 16
"""Scans of an image of as many pixels as one may have; smaller ones may have more, for the same work."""
JUNK = 1 << 16
"""Bytes between two segments, which Pillow skips one by one."""
TAGS = 1 << 20
"""Bytes of EXIF data; Pillow copies them for each segment of 64 KB."""
HUFFMAN = {0xC0: 2, 0xC1: 2, 0xC2: 1}
"""Frames with Huffman codes, and the least bits of a block: of its first coefficient, or of that and others."""
MARKER = re.compile(rb"\xff([^\x00\xff])")
END_OF_CODES = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")
PADDING = bytes(range(1, 255))


class Frame(NamedTuple):
    """What precedes the first scan of a JPEG file.

    Attributes:
        kind: the marker of the frame, 0xC0 to 0xCF; 0 where there is none.
        width: px.
        height: px.
        sampling: of each component the factors (horizontal, vertical).
        scans: the place of the first scan.
        tags: the TIFF structures of EXIF and MPF.
    """

    kind: int = 0
    width: int = 0
    height: int = 0
    sampling: tuple[tuple[int, int], ...] = ()
    scans: int = 0
    tags: tuple[bytes, ...] = ()

    def require_data(self, data: bytes) -> None:
        """Raises PpclsExtError where a file holds fewer bits than the blocks of its image need at the very least."""
        bits = HUFFMAN.get(self.kind)
        if bits is None or not self.sampling or not self.scans:
            return
        widest, highest = max(h for h, _ in self.sampling), max(v for _, v in self.sampling)
        blocks = sum(
            -(-self.width * h // (8 * widest)) * -(-self.height * v // (8 * highest)) for h, v in self.sampling
        )
        if 8 * (len(data) - self.scans) < bits * blocks:
            raise PpclsExtError(
                f"the image is truncated: {self.width} × {self.height} px need at least {bits * blocks // 8:,} bytes, "
                f"and it has {len(data) - self.scans:,}"
            )

    def require_few_scans(self, data: bytes, max_pixels: int) -> None:
        """Raises PpclsExtError where so many scans go over the image that decoding would take minutes."""
        if not self.scans:
            return
        most = min(SCANS, SCANS_OF_LARGEST * max_pixels // max(1, self.width * self.height))
        # quick, and never too few: previews within segments are counted, too
        if data.count(b"\xff\xda", self.scans) > most:
            scans = sum(1 for _ in _scans(data, self.scans))
            if scans > most:
                raise PpclsExtError(f"the image has {scans} scans: expected at most {most}; save it anew")

    def lacks(self, data: bytes, image: Image.Image) -> bool:
        """Returns whether libjpeg filled up the end of an image with grey, for want of data before a marker.

        Only an image whose last pixel is that grey is decoded a second time, with bytes added behind the data of each
        scan: that changes nothing unless they are needed.

        Args:
            data: the file.
            image: as Pillow decoded it.
        """
        last = image.getpixel((image.width - 1, image.height - 1))
        if self.kind not in HUFFMAN or not set(last if isinstance(last, tuple) else (last,)) <= {127, 128}:
            return False
        pieces, start = [], 0
        for end, _ in _scans(data, self.scans):
            pieces += [data[start:end], PADDING]
            start = end
        other = Image.open(io.BytesIO(b"".join([*pieces, data[start:]])), formats=("JPEG",))
        other.load()
        for top in range(0, image.height, 64):
            band = (0, top, image.width, min(top + 64, image.height))
            if image.crop(band).tobytes() != other.crop(band).tobytes():
                return True
        return False


def read_frame(data: bytes, most: int) -> Frame:
    """Reads what precedes the first scan of a JPEG file.

    Args:
        data: the file; of a damaged one, which is left to Pillow to refuse, what can be read is returned.
        most: the number of segments that are allowed.

    Raises:
        PpclsExtError: it has more segments, or others that Pillow would be busy with for long.
    """
    frame, exif, tags, at = Frame(), b"", [], 2
    for _ in range(most):
        found = MARKER.search(data, at, at + JUNK)
        if found is None:
            if at + JUNK < len(data):
                raise PpclsExtError(f"damaged image: more than {JUNK:,} bytes between two segments")
            break
        marker, at = found[1][0], found.end()
        if marker == 0xDA:
            return frame._replace(scans=at - 2, tags=(*tags, *([exif] if exif else [])))
        if marker == 0x01 or 0xD0 <= marker <= 0xD9:  # nothing follows them
            continue
        length = int.from_bytes(data[at : at + 2], "big")
        body = data[at + 2 : at + length]
        at += max(length, 2)
        if marker == 0xE1 and body.startswith(b"Exif\0\0"):
            exif += body[6:]
            if len(exif) > TAGS:
                raise PpclsExtError(f"damaged image: expected at most {TAGS:,} bytes of EXIF data")
        elif marker == 0xE2 and body.startswith(b"MPF\0"):
            tags.append(body[4:])
        elif 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            frame = _frame(marker, body)
    else:
        raise PpclsExtError(f"damaged image: expected at most {most:,} segments")
    return frame


def _frame(marker: int, body: bytes) -> Frame:
    if len(body) < 6:
        return Frame()
    height, width = int.from_bytes(body[1:3], "big"), int.from_bytes(body[3:5], "big")
    sampling = tuple((value >> 4, value & 15) for value in body[7 : 6 + 3 * body[5] : 3])
    # without sampling it is for libjpeg to refuse
    return Frame(marker, width, height, sampling if all(h and v for h, v in sampling) else ())


def _scans(data: bytes, at: int) -> Iterator[tuple[int, int]]:
    """Of each scan from the one at `at` on, the place behind its data, and that of the next scan or of the end."""
    while True:
        codes = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        found = END_OF_CODES.search(data, codes)
        end = at = found.start() if found else len(data)
        while found and found.group()[-1] not in (0xDA, 0xD9):
            at = found.end()
            at += max(2, int.from_bytes(data[at : at + 2], "big"))
            found = MARKER.search(data, at)
        at = found.end() - 2 if found else len(data)
        yield end, at
        if data[at : at + 2] != b"\xff\xda":
            return
