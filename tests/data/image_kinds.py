"""A zoo of pictures: every kind that a folder of the real world may hold, made here, whole and broken."""

from __future__ import annotations

import struct
import zlib

import cv2
import numpy as np
from PIL import Image, features

from tests.data.test_image_input import BROKEN, DEEP, GREYS, HEIGHT, IMAGES, PALETTE, RGB, RGBA, WIDTH, encoded

DEEP_RGBA = np.dstack([DEEP, DEEP[:, :, 0]])
FLOATS = (DEEP / 65535).astype(np.float32)
GREY = RGB.convert("L")


def by_opencv(suffix: str, pixels: np.ndarray, *options: int) -> bytes:
    return cv2.imencode(suffix, pixels, list(options))[1].tobytes()


def png_chunks(data: bytes) -> list[tuple[bytes, bytes]]:
    chunks, at = [], 8
    while at < len(data):
        (length,) = struct.unpack(">I", data[at : at + 4])
        chunks.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + length]))
        at += 12 + length
    return chunks


def png_of(chunks: list[tuple[bytes, bytes]], wrong: bytes = b"") -> bytes:
    """A PNG of these chunks, with a wrong checksum for chunks of the kind `wrong`."""
    parts = [b"\x89PNG\r\n\x1a\n"]
    for kind, content in chunks:
        checksum = zlib.crc32(kind + content) ^ (kind == wrong)
        parts.append(struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum))
    return b"".join(parts)


def png_raw(bits: int, colour: int, rows: bytes, *chunks: tuple[bytes, bytes], width=8, height=8) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    return png_of([(b"IHDR", header), *chunks, (b"IDAT", zlib.compress(rows)), (b"IEND", b"")])


def bmp(bits: int, compression: int, pixels: bytes, palette: bytes = b"", height: int = 8, masks: bytes = b"") -> bytes:
    """An 8 px wide BMP."""
    header = struct.pack("<IiiHHIIiiII", 40, 8, height, 1, bits, compression, len(pixels), 0, 0, len(palette) // 4, 0)
    offset = 14 + len(header) + len(masks) + len(palette)
    return b"BM" + struct.pack("<IHHI", offset + len(pixels), 0, 0, offset) + header + masks + palette + pixels


def tiff(entries: dict[int, tuple[int, list[int]]], pixels: bytes, order: str = "<") -> bytes:
    """A TIFF of one strip; entries are tag: (type, values), of types 3 (16 bits) and 4 (32 bits)."""
    entries = {**entries, 273: (4, [8]), 279: (4, [len(pixels)])}
    at = 8 + len(pixels) + len(pixels) % 2
    directory, beyond = struct.pack(order + "H", len(entries)), b""
    extra = at + 2 + 12 * len(entries) + 4
    for tag, (kind, values) in sorted(entries.items()):
        data = struct.pack(order + str(len(values)) + "HI"[kind - 3], *values)
        if len(data) > 4:
            value, beyond = struct.pack(order + "I", extra + len(beyond)), beyond + data
        else:
            value = data.ljust(4, b"\0")
        directory += struct.pack(order + "HHI", tag, kind, len(values)) + value
    start = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", at)
    return start + pixels + bytes(len(pixels) % 2) + directory + bytes(4) + beyond


def plain_tiff(photometric: int, samples: int, bits: int, pixels: bytes, order="<", **tags: list[int]) -> bytes:
    extra = {int(tag[1:]): (3, values) for tag, values in tags.items()}
    base = {256: [8], 257: [8], 258: [bits] * samples, 259: [1], 262: [photometric], 277: [samples], 278: [8]}
    return tiff({**{tag: (3, values) for tag, values in base.items()}, **extra}, pixels, order)


NOISE = np.random.default_rng(3).integers(0, 256, 8 * 8 * 16, dtype=np.uint8).tobytes()
ROWS = b"".join(b"\0" + NOISE[8 * row : 8 * row + 8] for row in range(8))
COLOURS = NOISE[:768]
PNG = png_chunks(IMAGES["png"])
JPEG = IMAGES["jpeg"]
TWO = {"save_all": True, "append_images": [RGB.transpose(Image.Transpose.ROTATE_180)]}

ZOO = {
    **IMAGES,
    **BROKEN,
    "png 16 bits rgba": by_opencv(".png", DEEP_RGBA),
    "png 1 bit": png_raw(1, 0, ROWS[::9] + ROWS[:8] + bytes(8)),
    "png 2 bits grey": png_raw(2, 0, b"".join(b"\0" + NOISE[2 * row : 2 * row + 2] for row in range(8))),
    "png 4 bits palette": png_raw(
        4, 3, b"".join(b"\0" + NOISE[4 * row : 4 * row + 4] for row in range(8)), (b"PLTE", COLOURS[:48])
    ),
    "png palette and alpha": png_raw(8, 3, ROWS, (b"PLTE", COLOURS), (b"tRNS", NOISE[:256])),
    "png palette too short": png_raw(8, 3, ROWS, (b"PLTE", COLOURS[:48])),
    "png without palette": png_raw(8, 3, ROWS),
    "png rgb, one colour transparent": png_of([PNG[0], (b"tRNS", bytes(6)), *PNG[1:]]),
    "png interlaced": png_raw(8, 0, bytes(200), width=8, height=8).replace(b"\x08\0\0\0\0", b"\x08\0\0\0\1", 1),
    "png gamma": png_of([PNG[0], (b"gAMA", struct.pack(">I", 100000)), *PNG[1:]]),
    "png text chunk with a bad checksum": png_of([PNG[0], (b"tEXt", b"a\0b"), *PNG[1:]], wrong=b"tEXt"),
    **{f"png bad checksum of {kind.decode()}": png_of(PNG, wrong=kind) for kind in (b"IHDR", b"IDAT", b"IEND")},
    "png without IEND": png_of(PNG[:-1]),
    "png without IDAT": png_of([PNG[0], PNG[-1]]),
    "png with bytes behind": IMAGES["png"] + b"behind" * 10,
    "png of 0 px": png_raw(8, 0, b"", width=0, height=0),
    "png of 99 bits": png_raw(99, 0, ROWS),
    "png of colour type 5": png_raw(8, 5, ROWS),
    "png of two IHDR": png_of([PNG[0], *PNG]),
    **{f"png truncated to {n} %": IMAGES["png"][: len(IMAGES["png"]) * n // 100] for n in (1, 10, 50, 90, 99)},
    **{f"jpeg truncated to {n} %": JPEG[: len(JPEG) * n // 100] for n in (1, 10, 30, 60, 90, 99)},
    "jpeg without the last byte": JPEG[:-1],
    "jpeg without EOI": JPEG[:-2],
    "jpeg with bytes behind": JPEG + b"behind" * 10,
    "jpeg with bytes in front": b"front" + JPEG,
    "jpeg damaged in the middle": JPEG[: len(JPEG) // 2] + b"\xff\xd9\xff" + JPEG[len(JPEG) // 2 :],
    "jpeg bits flipped": bytes(byte ^ (index % 397 == 396) for index, byte in enumerate(JPEG)),
    "jpeg without tables": JPEG.replace(b"\xff\xdb", b"\xff\xfe"),
    "jpeg of 0 px": JPEG.replace(struct.pack(">HH", HEIGHT, WIDTH), bytes(4), 1),
    "jpeg orientation 9": encoded(RGB, "JPEG", orientation=9),
    "jpeg optimised, grey, progressive": encoded(GREY, "JPEG", progressive=True, optimize=True),
    "jpeg restart markers": by_opencv(".jpg", GREYS[:, :, :3], cv2.IMWRITE_JPEG_RST_INTERVAL, 2),
    "jpeg 1 px": encoded(RGB.crop((0, 0, 1, 1)), "JPEG"),
    "jpeg long": encoded(RGB.resize((1, 3000)), "JPEG"),
    "tiff 16 bits": by_opencv(".tiff", DEEP),
    "tiff 16 bits rgba": by_opencv(".tiff", DEEP_RGBA),
    "tiff of three floats": by_opencv(".tiff", FLOATS),
    "tiff lab": encoded(Image.frombytes("LAB", (WIDTH, HEIGHT), GREYS[:, :, :3].tobytes()), "TIFF"),
    "tiff ycbcr": encoded(RGB.convert("YCbCr"), "TIFF"),
    "tiff cmyk": encoded(Image.frombytes("CMYK", (WIDTH, HEIGHT), GREYS.tobytes()), "TIFF"),
    "tiff black and white, fax": encoded(RGB.convert("1"), "TIFF", compression="group4"),
    "tiff palette": encoded(PALETTE, "TIFF"),
    "tiff grey alpha": encoded(RGBA.convert("LA"), "TIFF"),
    "tiff jpeg": encoded(RGB, "TIFF", compression="jpeg"),
    "tiff of two pages": encoded(RGB, "TIFF", **TWO),
    "tiff deflate": encoded(RGB, "TIFF", compression="tiff_adobe_deflate"),
    "tiff orientation 6": encoded(RGB, "TIFF", tiffinfo={274: 6}),
    "tiff of 32 bits": encoded(Image.fromarray(DEEP[:, :, 0].astype(np.int32)), "TIFF"),
    "tiff white is zero": plain_tiff(0, 1, 8, NOISE[:64]),
    "tiff big-endian": plain_tiff(1, 1, 8, NOISE[:64], ">"),
    "tiff 16 bits big-endian rgb": plain_tiff(2, 3, 16, NOISE[:384], ">"),
    "tiff of planes": plain_tiff(2, 3, 8, NOISE[:192], t284=[2]),
    "tiff cielab": plain_tiff(8, 3, 8, NOISE[:192]),
    "tiff of 5 samples": plain_tiff(2, 5, 8, NOISE[:320], t338=[0, 0]),
    "tiff premultiplied alpha": plain_tiff(2, 4, 8, NOISE[:256], t338=[1]),
    "tiff unknown compression": plain_tiff(1, 1, 8, NOISE[:64], t259=[12345]),
    "tiff signed": plain_tiff(1, 1, 8, NOISE[:64], t339=[2]),
    **{f"tiff truncated to {n} %": IMAGES["tiff"][: len(IMAGES["tiff"]) * n // 100] for n in (1, 50, 99)},
    "bmp 1 bit": bmp(1, 0, NOISE[:32], bytes([0, 0, 255, 0, 255, 0, 0, 0])),
    "bmp 4 bits": bmp(4, 0, NOISE[:32], NOISE[:64]),
    "bmp 5-5-5 bits": bmp(16, 0, NOISE[:128]),
    "bmp 5-6-5 bits": bmp(16, 3, NOISE[:128], masks=struct.pack("<III", 0xF800, 0x7E0, 0x1F)),
    "bmp upside down": bmp(24, 0, NOISE[:192], height=-8),
    "bmp run lengths": bmp(8, 1, b"".join(bytes([8, row, 0, 0]) for row in range(8)) + b"\0\1", NOISE[:1024]),
    "bmp unknown compression": bmp(24, 9, NOISE[:192]),
    "gif interlaced": encoded(PALETTE, "GIF", interlace=1),
    "gif grey": encoded(GREY, "GIF"),
    "gif truncated": IMAGES["gif"][: len(IMAGES["gif"]) // 2],
    "gif without trailer": IMAGES["gif"][:-1],
    "webp lossless": encoded(RGB, "WEBP", lossless=True),
    "webp orientation 6": encoded(RGB, "WEBP", lossless=True, orientation=6),
    "jpeg 2000 grey": encoded(GREY, "JPEG2000"),
    "jpeg 2000 rgba": encoded(RGBA, "JPEG2000"),
    "jpeg 2000 stream": encoded(RGB, "JPEG2000", no_jp2=True),
    "jpeg 2000 16 bits": encoded(Image.fromarray(DEEP[:, :, 0]), "JPEG2000"),
    "jpeg 2000 truncated": IMAGES["jpeg 2000"][:1500],
    "ppm": encoded(RGB, "PPM"),
    "pgm": encoded(GREY, "PPM"),
    "pgm 16 bits": b"P5 8 8 65535\n" + NOISE[:128],
    "ppm 16 bits": b"P6 8 8 65535\n" + NOISE[:384],
    "ppm of 100 levels": b"P6 8 8 100\n" + bytes(byte % 101 for byte in NOISE[:192]),
    "pbm": encoded(RGB.convert("1"), "PPM"),
    "ppm of digits": b"P3\n# comment\n2 1\n255\n255 0 0 0 255 0\n",
    "ppm truncated": encoded(RGB, "PPM")[:2000],
    "pfm": b"PF\n8 8\n-1.0\n" + np.linspace(0, 1, 192, dtype="<f4").tobytes(),
    "pam": b"P7\nWIDTH 8\nHEIGHT 8\nDEPTH 3\nMAXVAL 255\nTUPLTYPE RGB\nENDHDR\n" + NOISE[:192],
    "tga": encoded(RGB, "TGA"),
    "ico": encoded(RGB.resize((16, 16)), "ICO"),
    "pcx": encoded(RGB, "PCX"),
    "icns, psd and the like": b"8BPS\0\1" + NOISE[:200],
    "svg": b'<svg xmlns="http://www.w3.org/2000/svg" width="8" height="8"><rect width="8" height="8"/></svg>',
    "radiance hdr": by_opencv(".hdr", FLOATS),
    "sun raster": by_opencv(".ras", GREYS[:, :, :3]),
    "zeros": bytes(1000),
}
if features.check("avif"):
    ZOO.update(
        {"avif": encoded(RGB, "AVIF"), "avif rgba": encoded(RGBA, "AVIF"), "avif animated": encoded(RGB, "AVIF", **TWO)}
    )
