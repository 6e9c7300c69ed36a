"""What a file of a few bytes may make a decoder do: refused in one line, before memory or time is spent."""

from __future__ import annotations

import io
import os
import resource
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from ppcls_ext.data import image_bounds, image_files
from ppcls_ext.data.image_bounds import OPTION, PARTS, PIXELS
from ppcls_ext.data.image_files import decode, read_image
from ppcls_ext.data.image_input import network_input
from ppcls_ext.data.image_rule import Preprocessing
from ppcls_ext.errors import PpclsExtError
from ppcls_ext.files import read_regular
from tests.data.image_kinds import ZOO, bmp, png_chunks, png_of, png_raw
from tests.data.test_image_input import IMAGES, RGB, encoded

MEMORY = 256 << 20
"""Bytes that a refusal may take, most of them of Python's own."""
NOISE = np.random.default_rng(7).integers(0, 256, (256, 256, 3), dtype=np.uint8)
LARGE = Image.fromarray(NOISE)


def refusal(data: bytes) -> str:
    """What `decode` says of a file, in a process whose memory is bounded; empty where it decodes it."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        said = b""
        try:
            with open("/proc/self/statm") as statm:
                size = int(statm.read().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (size + MEMORY, size + MEMORY))
            decode(data)
        except PpclsExtError as error:
            said = str(error).encode()
        except BaseException as error:
            said = repr(error).encode()
        finally:
            os.write(writer, said)
            os._exit(0)
    os.close(writer)
    with open(reader, "rb") as stream:
        said = stream.read().decode()
    os.waitpid(child, 0)
    assert "\n" not in said
    return said


def riff(*chunks: tuple[bytes, bytes]) -> bytes:
    body = b"".join(kind + struct.pack("<I", len(data)) + data + bytes(len(data) % 2) for kind, data in chunks)
    return b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WEBP" + body


def resized(data: bytes, width: int, height: int) -> bytes:
    """The JPEG with another size in its header."""
    at = next(data.index(marker) for marker in (b"\xff\xc0", b"\xff\xc1", b"\xff\xc2") if marker in data)
    return data[: at + 5] + struct.pack(">HH", height, width) + data[at + 9 :]


def with_scans(data: bytes, count: int) -> bytes:
    """The JPEG with its last scan `count` times more."""
    start = data.rindex(b"\xff\xda")
    return data[:-2] + data[start:-2] * count + data[-2:]


def with_segment(data: bytes, marker: int, body: bytes) -> bytes:
    return data[:2] + b"\xff" + bytes([marker]) + struct.pack(">H", len(body) + 2) + body + data[2:]


def tags(count: int, size: int, *fields: tuple[int, int, int, int]) -> bytes:
    """A TIFF structure whose tags all tell the same bytes."""
    rows = [struct.pack("<HHII", *field) for field in fields]
    rows += [struct.pack("<HHII", 40_000 + index, 1, size, 8) for index in range(count)]
    return (b"II*\0\x08\0\0\0" + struct.pack("<H", len(rows)) + b"".join(rows) + bytes(4)).ljust(size + 8, b"\0")


def shorts(width: int, height: int) -> list[tuple[int, int, int, int]]:
    """Of a grey TIFF."""
    values = {256: width, 257: height, 258: 8, 259: 1, 262: 1, 277: 1}
    return [(tag, 4 if tag < 258 else 3, 1, value) for tag, value in values.items()]


def jpeg_2000(width=64, height=64, tile=64, components=3, custom=b"", block=b"\4\4", in_tile=False) -> bytes:
    """The header of a codestream."""
    parts = b"".join([b"\x07\x01\x01"] * components)
    size = struct.pack(">H8IH", 0, width, height, 0, 0, tile, tile, 0, 0, components) + parts
    style = bytes([1 if custom else 0]) + b"\0\0\1\0" + bytes([max(len(custom) - 1, 0)]) + block + b"\0\1" + custom
    style = b"\xff\x52" + struct.pack(">H", len(style) + 2) + style
    plain = jpeg_style()
    start = b"\xff\x4f\xff\x51" + struct.pack(">H", len(size) + 2) + size + (plain if in_tile else style)
    inside = style if in_tile else b""
    tile_part = b"\xff\x90" + struct.pack(">HHIBB", 10, 0, 14 + len(inside), 0, 1) + inside + b"\xff\x93"
    return start + tile_part + b"\xff\xd9"


def jpeg_style() -> bytes:
    style = b"\0\0\0\1\0\0\4\4\0\1"
    return b"\xff\x52" + struct.pack(">H", len(style) + 2) + style


def boxed(codestream: bytes) -> bytes:
    """A JP2 file that claims 64 × 64 px of RGB."""
    box = struct.pack(">I", 22) + b"ihdr" + struct.pack(">IIHBBBB", 64, 64, 3, 7, 7, 0, 0)
    box += struct.pack(">I", 15) + b"colr" + struct.pack(">BBBI", 1, 0, 0, 16)
    start = b"\0\0\0\x0cjP  \r\n\x87\n" + struct.pack(">I", 20) + b"ftypjp2 \0\0\0\0jp2 "
    return start + struct.pack(">I", len(box) + 8) + b"jp2h" + box + struct.pack(">I", 0) + b"jp2c" + codestream


JPEG = encoded(LARGE, "JPEG")
PROGRESSIVE = encoded(LARGE, "JPEG", progressive=True)
PNG = png_chunks(IMAGES["png"])
EMPTY = struct.pack(">I", 0) + b"abCd" + struct.pack(">I", zlib.crc32(b"abCd"))
TILE = [(322, 4, 1, 60_000), (323, 4, 1, 60_000), (324, 4, 1, 8), (325, 4, 1, 64)]
TOO_LARGE = {
    "webp lossless": riff((b"VP8L", b"\x2f" + struct.pack("<I", 16382 | 16382 << 14) + b"\0")),
    "webp lossy": riff((b"VP8 ", b"\x10\0\0\x9d\x01\x2a" + struct.pack("<HH", 16383, 16383) + b"\0\0")),
    "webp extended": riff((b"VP8X", bytes(4) + b"\xfe\x3f\0" * 2), (b"VP8L", b"\x2f" + bytes(5))),
    "webp animated": riff((b"VP8X", b"\2\0\0\0" + b"\xfe\x3f\0" * 2), (b"ANIM", bytes(6)), (b"ANMF", bytes(40))),
    "png of one line": png_raw(8, 0, b"\0", width=80_000_000, height=1),
    "png of one column": png_raw(8, 0, b"\0", width=1, height=80_000_000),
    "png of 16 bits": png_raw(16, 6, b"\0", width=9500, height=9500),
    "gif": b"GIF89a" + struct.pack("<HH", 65535, 65535) + bytes(3) + b"," + bytes(8) + b"\0\2\1\0\0;",
    "gif whose frame is larger": b"GIF89a\x08\0\x08\0" + bytes(3) + b",\0\0\0\0\xff\xff\xff\xff\0\2\1\0\0;",
    "bmp": bmp(24, 0, bytes(64), height=80_000_000),
    "jpeg": resized(JPEG, 65500, 65500),
    "ppm": b"P6 30000 30000 255\n",
    "tiff": tags(0, 64, *shorts(60_000, 60_000), (273, 4, 1, 8), (279, 4, 1, 64)),
    "tiff of one huge tile": tags(0, 64, *shorts(8, 8), *TILE),
    "jpeg 2000": jpeg_2000(60_000, 60_000, 60_000),
    "jpeg 2000 in a file that claims less": boxed(jpeg_2000(60_000, 60_000, 60_000)),
    "jpeg 2000 of a third": jpeg_2000(5400, 5400, 5400),
    "bmp of run lengths": bmp(8, 1, b"\0\0" * 20, height=600_000),
    "ppm of 100 levels": b"P6 3000 3000 100\n" + bytes(99),
    "ppm of digits": b"P3 3000 3000 255\n" + b"0 " * 99,
}
BUSY = {
    "jpeg of 800 scans": (with_scans(PROGRESSIVE, 800), "scans"),
    "jpeg of 800 sequential scans": (with_scans(JPEG, 800), "scans"),
    "large jpeg of 40 scans": (with_scans(resized(PROGRESSIVE, 8000, 8000), 40) + bytes(10**6), "scans"),
    "exif": (with_segment(JPEG, 0xE1, b"Exif\0\0" + tags(5000, 60_400)), "unfold"),
    "exif in png": (png_of([PNG[0], (b"eXIf", tags(5000, 100_000)), *PNG[1:]]), "unfold"),
    "exif in webp": (encoded(RGB, "WEBP", exif=b"Exif\0\0" + tags(5000, 100_000)), "unfold"),
    "mpf": (with_segment(JPEG, 0xE2, b"MPF\0" + tags(5000, 60_400)), "unfold"),
    "tiff": (tags(20_000, 300_000, *shorts(8, 8), (273, 4, 1, 8), (279, 4, 1, 64)), "unfold"),
    "tiff of many strips": (tags(0, 4 << 20, *shorts(8, 8), (273, 4, 1 << 20, 8), (279, 4, 1, 64)), "values"),
    "png chunks": (png_of(PNG[:1]) + EMPTY * (PARTS + 1) + IMAGES["png"][33:], "chunks"),
    "jpeg segments": (JPEG[:2] + b"\xff\xfe\0\2" * (PARTS + 1) + JPEG[2:], "segments"),
    "jpeg junk": (JPEG[:2] + bytes(1 << 20) + JPEG[2:], "between two segments"),
    "jpeg fill": (JPEG[:2] + b"\xff" * (1 << 20) + JPEG[2:], "between two segments"),
    "much exif": (JPEG[:2] + with_segment(b"", 0xE1, b"Exif\0\0" + bytes(65_000)) * 20 + JPEG[2:], "bytes of EXIF"),
    "gif comments": (IMAGES["gif"][:6] + bytes(7) + b"!\xfe" + (b"\xff" + bytes(255)) * PARTS, "blocks before"),
    "ppm comments": (b"P3 8 8 255\n" + b"#\n" * 500_000 + b"0 " * 192, "comments"),
    "ppm header": (b"P6 #" + b"x" * (1 << 20) + b"\n8 8 255\n" + bytes(192), "header"),
    "ppm blanks": (b"P6" + b" " * (1 << 20) + b"8 8 255\n" + bytes(192), "header"),
    "jpeg 2000 tiles": (jpeg_2000(4096, 4096, 16), "tiles"),
    "jpeg 2000 components": (boxed(jpeg_2000(components=16_000)), "components"),
    "jpeg 2000 precincts": (jpeg_2000(custom=b"\x11\x11"), "precincts"),
    "jpeg 2000 precincts of a tile": (boxed(jpeg_2000(custom=b"\x11\x11", in_tile=True)), "precincts"),
    "jpeg 2000 blocks": (jpeg_2000(block=b"\0\0"), "code blocks"),
}


@pytest.mark.parametrize("name", TOO_LARGE)
def test_few_bytes_that_claim_many_pixels(name):
    assert len(TOO_LARGE[name]) < 10**6
    assert "too large" in refusal(TOO_LARGE[name])


@pytest.mark.parametrize("name", BUSY)
def test_what_would_keep_a_decoder_busy(name):
    data, what = BUSY[name]
    said = refusal(data)
    assert what in said


def cut(data: bytes, share: float) -> bytes:
    """The JPEG without the end of its last scan, but with the marker of its end."""
    start = data.rindex(b"\xff\xda")
    return data[: start + int((len(data) - start) * share)].rstrip(b"\xff") + b"\xff\xd9"


COLOURS = {"grey": LARGE.convert("L"), "rgb": LARGE, "cmyk": LARGE.convert("CMYK")}
SEQUENTIAL = {
    **{name: encoded(image, "JPEG") for name, image in COLOURS.items()},
    "4:4:4": encoded(LARGE, "JPEG", subsampling=0, quality=95),
    "4:2:2": encoded(LARGE, "JPEG", subsampling=1, optimize=True),
    "restart markers": encoded(LARGE, "JPEG", restart_marker_rows=1),
    "orientation": encoded(LARGE, "JPEG", orientation=6),
}


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.98])
@pytest.mark.parametrize("name", SEQUENTIAL)
def test_a_jpeg_that_lacks_data_before_its_end_marker(name, share):
    """libjpeg fills it up with grey, and says so only to whoever reads its warnings."""
    decode(SEQUENTIAL[name])
    for behind in (b"", b"behind" * 1000, SEQUENTIAL[name]):
        with pytest.raises(PpclsExtError, match="truncated"):
            decode(cut(SEQUENTIAL[name], share) + behind)


def test_a_progressive_jpeg_without_most_of_its_first_scan():
    start = PROGRESSIVE.index(b"\xff\xda")
    for size in (30, 300):
        with pytest.raises(PpclsExtError, match="truncated"):
            decode(PROGRESSIVE[: start + size] + b"\xff\xd9")


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}], ids=str)
def test_a_large_jpeg_of_two_kilobytes(options):
    """9,400 × 9,400 px: it is refused before a pixel is decoded."""
    data = encoded(RGB.resize((32, 32)), "JPEG", **options)
    data = resized(data[: data.index(b"\xff\xda") + 60] + b"\xff\xd9", 9400, 9400).ljust(2000, b"\0")
    assert "truncated: 9400 × 9400 px need at least" in refusal(data)


@pytest.mark.parametrize("grey", [0, 127, 128, 129, 255])
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}, {"optimize": True}], ids=str)
def test_flat_jpegs_are_read(grey, options):
    """They have the fewest bits; the grey that libjpeg fills up with is a colour like others."""
    for mode in ("L", "RGB", "CMYK"):
        for size in ((1, 1), (640, 641), (3, 4000)):
            image = Image.new(mode, size, grey if mode == "L" else (grey,) * len(mode))
            for quality in (1, 90):
                data = encoded(image, "JPEG", quality=quality, **options)
                assert np.ptp(decode(data)) == 0


def test_scans_of_previews_are_not_counted():
    preview = encoded(RGB, "JPEG", progressive=True)
    data = JPEG
    for _ in range(20):
        data = with_segment(data, 0xE5, preview)
    np.testing.assert_array_equal(decode(data + preview * 20), decode(JPEG))
    assert decode(with_scans(PROGRESSIVE, 60)).shape == (256, 256, 3)


def test_tags_of_a_damaged_exif_count_as_none():
    """As before: a camera's broken directory is no reason to refuse an image."""
    for data in (tags(60, 50_000), tags(3, 100, (0x112, 3, 1, 6), (0x8769, 1, 1 << 31, 1 << 30)), b"II*\0", bytes(90)):
        assert decode(with_segment(JPEG, 0xE1, b"Exif\0\0" + data)).shape == (256, 256, 3)


@pytest.mark.parametrize("name", ZOO)
def test_colours_are_converted_in_bands(name, monkeypatch):
    """What takes 50 bytes a pixel is done for some lines at a time, with the same result."""
    try:
        expected = [decode(ZOO[name], library) for library in ("cv2", "pil")]
    except PpclsExtError:
        return
    monkeypatch.setattr(image_files, "BAND", 300)
    for library, pixels in zip(("cv2", "pil"), expected):
        got = decode(ZOO[name], library)
        assert got.flags.writeable
        np.testing.assert_array_equal(got, pixels)


def test_the_limit_is_an_option(monkeypatch, tmp_path):
    (tmp_path / "image.png").write_bytes(IMAGES["png"])
    monkeypatch.setenv(OPTION, str(RGB.width * RGB.height))
    decode(IMAGES["png"])
    monkeypatch.setenv(OPTION, str(RGB.width * RGB.height - 1))
    with pytest.raises(PpclsExtError, match=f"52 × 37 px, and expected were at most 1,923; .*{OPTION}"):
        decode(IMAGES["png"])
    monkeypatch.setenv(OPTION, "9")
    for read in (lambda: read_image(tmp_path / "image.png"), lambda: network_input(io.BytesIO(IMAGES["png"]), RULE)):
        with pytest.raises(PpclsExtError, match=r"36 bytes"):
            read()
    assert Image.MAX_IMAGE_PIXELS == PIXELS


RULE = Preprocessing()


@pytest.mark.parametrize("text", ["0", "-1", "1e9", "many", "179000000", "9" * 5000])
def test_a_limit_that_is_none(monkeypatch, text):
    monkeypatch.setenv(OPTION, text)
    with pytest.raises(PpclsExtError, match=f"{OPTION} is .*expected a whole number from 1 to 178,956,970"):
        decode(IMAGES["png"])


def test_more_than_pillow_warns_of(monkeypatch):
    """Pillow warns above 89 million pixels, and refuses above twice that."""
    data = png_raw(1, 0, bytes((12_500 // 8 + 2) * 8000), width=12_500, height=8000)
    assert "too large" in refusal(data)
    monkeypatch.setattr(image_files, "pixels", lambda image, library, channels: image.size)
    monkeypatch.setenv(OPTION, str(image_bounds.PIXELS_OF_PILLOW))
    assert decode(data) == (12_500, 8000)


def test_a_file_is_read_as_long_as_it_is(tmp_path):
    """Nothing is allocated for what a limit allows, nor for a file that is too long."""
    path = tmp_path / "huge.jpg"
    with open(path, "wb") as stream:
        stream.truncate(1 << 42)
    with pytest.raises(PpclsExtError, match="larger than the"):
        read_image(path)
    path.write_bytes(IMAGES["jpeg"])
    before = resource.getrlimit(resource.RLIMIT_AS)
    with open("/proc/self/statm") as statm:
        size = int(statm.read().split()[0]) * resource.getpagesize() + (64 << 20)
    resource.setrlimit(resource.RLIMIT_AS, (size, before[1]))
    try:
        assert read_regular(path, 1 << 40) == IMAGES["jpeg"]
        with open(path, "rb") as stream:
            assert network_input(stream, RULE).shape == (3, 224, 224)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def test_a_long_file_of_jpeg_2000(monkeypatch):
    monkeypatch.setenv(OPTION, str(4 * RGB.width * RGB.height))
    data = IMAGES["jpeg 2000"]
    assert decode(data + bytes(4 * RGB.width * RGB.height - len(data))).shape == (37, 52, 3)
    with pytest.raises(PpclsExtError, match="bytes of JPEG 2000"):
        decode(data + bytes(4 * RGB.width * RGB.height))


def test_small_tiles_are_read():
    for tile in (32, 64, 255):
        data = encoded(LARGE.resize((500, 500)), "JPEG2000", tile_size=(tile, tile), codeblock_size=(16, 16))
        assert decode(data).shape == (500, 500, 3)
    data = encoded(LARGE, "JPEG2000", precinct_size=(64, 64), num_resolutions=6)
    assert decode(data).shape == (256, 256, 3)


def test_files_whose_size_the_system_does_not_tell(tmp_path):
    assert read_regular("/proc/self/status", 1 << 16).startswith(b"Name:")
    with pytest.raises(PpclsExtError, match="larger than the 9 bytes"):
        read_regular("/proc/self/status", 9)
