"""ppcls_ext.data.image_input against OpenCV and PaddleClas's own operators."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from ppcls_ext.data.image_files import decode
from ppcls_ext.data.image_input import network_input, resize_and_crop, resize_as_opencv
from ppcls_ext.data.image_rule import Preprocessing, rule_from_transforms
from ppcls_ext.errors import PpclsExtError
from tests.helpers import sample_pictures

cv2 = pytest.importorskip("cv2")

RANDOM = np.random.default_rng(0)
HEIGHT, WIDTH = 37, 52
GREYS = RANDOM.integers(0, 256, (HEIGHT, WIDTH, 4), dtype=np.uint8)
DEEP = RANDOM.integers(0, 65536, (HEIGHT, WIDTH, 3), dtype=np.uint16)
RGB = Image.fromarray(GREYS[:, :, :3])
RGBA = Image.fromarray(GREYS)
PALETTE = RGB.quantize(32)


def encoded(image: Image.Image, file_format: str, **options) -> bytes:
    stream = io.BytesIO()
    if "orientation" in options:
        options["exif"] = Image.Exif()
        options["exif"][0x112] = options.pop("orientation")
    image.save(stream, file_format, **options)
    return stream.getvalue()


def without_adobe_marker(data: bytes) -> bytes:
    start = data.index(b"\xff\xee")
    return data[:start] + data[start + 2 + int.from_bytes(data[start + 2 : start + 4], "big") :]


def opencv(data: bytes) -> np.ndarray | None:
    """What PaddleClas's DecodeImage makes of the bytes."""
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), 1)
    except cv2.error:
        return None
    return None if image is None else image[:, :, ::-1]


TWO_FRAMES = {"save_all": True, "append_images": [RGB.transpose(Image.Transpose.ROTATE_180)]}
IMAGES = {
    "jpeg": encoded(RGB, "JPEG"),
    "jpeg progressive, 4:4:4": encoded(RGB, "JPEG", progressive=True, subsampling=0),
    "jpeg grey": encoded(RGB.convert("L"), "JPEG"),
    "jpeg cmyk": encoded(Image.frombytes("CMYK", (WIDTH, HEIGHT), GREYS.tobytes()), "JPEG", quality=100),
    "jpeg cmyk, no Adobe marker": without_adobe_marker(
        encoded(Image.frombytes("CMYK", (WIDTH, HEIGHT), GREYS.tobytes()), "JPEG", quality=100)
    ),
    "jpeg of two pictures (MPO)": encoded(RGB, "MPO", save_all=True, append_images=[RGB]),
    "jpeg with broken EXIF": encoded(RGB, "JPEG", exif=b"Exif\0\0garbage"),
    "png": encoded(RGB, "PNG"),
    "png rgba": encoded(RGBA, "PNG"),
    "png grey": encoded(RGB.convert("L"), "PNG"),
    "png grey alpha": encoded(RGBA.convert("LA"), "PNG"),
    "png black and white": encoded(RGB.convert("1"), "PNG"),
    "png palette": encoded(PALETTE, "PNG"),
    "png palette, one colour transparent": encoded(PALETTE, "PNG", transparency=3),
    "png 16 bits grey": encoded(Image.fromarray(DEEP[:, :, 0]), "PNG"),
    "png 16 bits": cv2.imencode(".png", DEEP)[1].tobytes(),
    "png animated": encoded(RGB, "PNG", **TWO_FRAMES),
    "png 1 px": encoded(RGB.crop((0, 0, 1, 1)), "PNG"),
    "webp": encoded(RGB, "WEBP"),
    "webp rgba": encoded(RGBA, "WEBP", lossless=True, exact=True),
    "webp animated": encoded(RGB, "WEBP", lossless=True, **TWO_FRAMES),
    "bmp": encoded(RGB, "BMP"),
    "bmp palette": encoded(PALETTE, "BMP"),
    "bmp rgba": encoded(RGBA, "BMP"),
    "gif": encoded(PALETTE, "GIF"),
    "gif, one colour transparent": encoded(PALETTE, "GIF", transparency=3, background=5),
    "gif animated": encoded(PALETTE, "GIF", save_all=True, append_images=[PALETTE.rotate(180)]),
    "tiff": encoded(RGB, "TIFF", compression="tiff_lzw"),
    "tiff rgba": encoded(RGBA, "TIFF"),
    "tiff 16 bits grey": encoded(Image.fromarray(DEEP[:, :, 0]), "TIFF"),
    "jpeg 2000": encoded(RGB, "JPEG2000"),
    **{f"jpeg orientation {n}": encoded(RGB, "JPEG", orientation=n) for n in range(1, 9)},
    **{f"png orientation {n}": encoded(RGB, "PNG", orientation=n) for n in (3, 6)},
    "png palette orientation 6": encoded(PALETTE, "PNG", orientation=6),
    "png 16 bits grey orientation 8": encoded(Image.fromarray(DEEP[:, :, 0]), "PNG", orientation=8),
}
BROKEN = {
    "empty": b"",
    "text": b"GIF or JPEG? no",
    "jpeg truncated": IMAGES["jpeg"][: len(IMAGES["jpeg"]) // 2],
    "jpeg header only": IMAGES["jpeg"][:200],
    "png truncated": IMAGES["png"][: len(IMAGES["png"]) // 2],
    "png damaged": IMAGES["png"][:3000] + b"ruin" + IMAGES["png"][3004:],
    "webp truncated": IMAGES["webp"][: len(IMAGES["webp"]) // 2],
    "bmp truncated": IMAGES["bmp"][: len(IMAGES["bmp"]) // 2],
    "tiff of floats": encoded(Image.fromarray(GREYS[:, :, 0].astype(np.float32)), "TIFF"),
}


@pytest.mark.parametrize("name", IMAGES)
def test_decoding_agrees_with_opencv(name):
    expected = opencv(IMAGES[name])
    if expected is None:
        pytest.skip(f"OpenCV {cv2.__version__} does not read it")
    got = decode(IMAGES[name])
    assert got.dtype == np.uint8
    np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("name", BROKEN)
def test_broken_images_are_refused_and_named(name, tmp_path):
    path = tmp_path / "broken.jpg"
    path.write_bytes(BROKEN[name])
    with pytest.raises(PpclsExtError) as caught:
        network_input(path, Preprocessing())
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_pillow_decoding_leaves_the_orientation():
    data = IMAGES["jpeg orientation 6"]
    assert decode(data).shape == (WIDTH, HEIGHT, 3)
    assert decode(data, "pil").shape == (HEIGHT, WIDTH, 3)


def png_header(width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("side", [12_000, 60_000])  # above Pillow's limit, and above twice its limit
def test_a_decompression_bomb_is_an_error(side, tmp_path):
    path = tmp_path / "bomb.png"
    path.write_bytes(png_header(side, side))
    with pytest.raises(PpclsExtError, match="too large") as caught:
        network_input(path, Preprocessing())
    assert str(path) in str(caught.value)


def test_a_missing_file_and_a_folder_are_named(tmp_path):
    for path in (tmp_path / "nothing.jpg", tmp_path):
        with pytest.raises(PpclsExtError) as caught:
            network_input(path, Preprocessing())
        assert str(path) in str(caught.value)


SIZES = [
    *[((37, 52), size) for size in ((52, 37), (26, 18), (104, 74), (7, 91), (300, 5), (1, 1))],
    ((64, 64), (32, 32)),
    ((64, 48), (96, 128)),
    ((349, 500), (367, 256)),
    ((1, 1), (9, 4)),
    ((1, 200), (512, 256)),
    ((200, 1), (3, 77)),
]


@pytest.mark.parametrize(("shape", "size"), SIZES)
def test_resizing_agrees_with_opencv(shape, size):
    image = np.random.default_rng(1).integers(0, 256, (*shape, 3), dtype=np.uint8)
    expected, got = cv2.resize(image, size).astype(int), resize_as_opencv(image, size).astype(int)
    # exact where it was written (OpenCV 4 and 5 on x86); OpenCV may round otherwise elsewhere
    assert np.abs(got - expected).max() <= 1
    assert (got != expected).mean() < 0.05


def test_only_the_crop_is_computed():
    image = np.random.default_rng(2).integers(0, 256, (90, 130, 3), dtype=np.uint8)
    whole = resize_as_opencv(image, (77, 51))
    part = resize_as_opencv(image, (77, 51), columns=range(5, 60), rows=range(11, 40))
    np.testing.assert_array_equal(part, whole[11:40, 5:60])
    # a whole image of 256 × 25,600,000 px would not fit into memory
    assert resize_and_crop(np.zeros((1, 100_000, 3), np.uint8), Preprocessing()).shape == (224, 224, 3)


def test_a_long_strip_is_refused_where_pillow_would_need_all_of_it():
    rule = Preprocessing(backend="pil", interpolation="bicubic")
    with pytest.raises(PpclsExtError, match="too large"):
        resize_and_crop(np.zeros((1, 100_000, 3), np.uint8), rule)


def test_other_opencv_interpolations_are_refused():
    with pytest.raises(PpclsExtError, match="bicubic"):
        resize_and_crop(np.zeros((9, 9, 3), np.uint8), Preprocessing(interpolation="bicubic"))


RULES = {
    "cv2": [{"ResizeImage": {"resize_short": 256}}, {"CropImage": {"size": 224}}],
    "both sides": [{"ResizeImage": {"size": [224, 160]}}],
    "wide crop": [{"ResizeImage": {"resize_short": 64}}, {"CropImage": {"size": [60, 33]}}],
    "pil": [
        {"ResizeImage": {"resize_short": 248, "interpolation": "bicubic", "backend": "pil"}},
        {"CropImage": {"size": 224}},
    ],
    "pil default": [{"ResizeImage": {"resize_short": 70, "backend": "pil"}}, {"CropImage": {"size": 64}}],
    "BGR": [{"ResizeImage": {"resize_short": 64}}, {"CropImage": {"size": 64}}],
}


def assert_agrees_with_paddleclas(path, name):
    """Runs PaddleClas's own operators; only resizing may differ, by one grey level."""
    try:
        from ppcls_ext.hosts.paddleclas.locate import activate

        activate(need_engine=True)
    except PpclsExtError as error:
        pytest.skip(str(error))
    from ppcls.data import create_operators

    transforms = [
        {"DecodeImage": {"to_rgb": name != "BGR", "channel_first": False}},
        *RULES[name],
        {
            "NormalizeImage": {
                "scale": "1.0/255.0",
                "mean": [0.485, 0.456, 0.406],
                "std": [0.229, 0.224, 0.225],
                "order": "",
            }
        },
        {"ToCHWImage": None},
    ]
    expected = path.read_bytes()
    for operator in create_operators(transforms):
        expected = operator(expected)
    got = network_input(path, rule_from_transforms(transforms))
    assert got.dtype == expected.dtype == np.float32
    assert got.shape == expected.shape
    assert np.abs(got - expected).max() <= 1.01 / 255 / 0.224
    assert (got != expected).mean() < 0.01


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("size", [(500, 333), (97, 61), (60, 300)])
def test_agrees_with_paddleclas(name, size, tmp_path):
    path = tmp_path / "picture.jpg"
    small = np.random.default_rng(3).integers(0, 256, (9, 13, 3), dtype=np.uint8)
    Image.fromarray(small).resize(size, Image.Resampling.BICUBIC).save(path, quality=92)
    assert_agrees_with_paddleclas(path, name)


@pytest.mark.parametrize("name", ["cv2", "pil"])
def test_agrees_with_paddleclas_on_real_images(name, shared):
    pictures = [path for path, _ in sample_pictures(shared)]
    assert len(pictures) == 20
    for path in pictures:
        assert_agrees_with_paddleclas(path, name)
