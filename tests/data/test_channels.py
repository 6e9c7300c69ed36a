"""Images of other channels than RGB: what decoding makes of every kind of file, of TIFF's pages and bands."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from ppcls_ext.data.class_folders import make_lists
from ppcls_ext.data.image_files import decode, find_faults, own_channels, pixels
from ppcls_ext.data.image_input import PreparedImages, network_input, resize_and_crop
from ppcls_ext.data.image_rule import Preprocessing, for_channels, read_size, size_text
from ppcls_ext.data.label_table import make_label_lists
from ppcls_ext.data.packing import pack_folder
from ppcls_ext.errors import PpclsExtError
from tests.data.test_image_input import DEEP, GREYS, HEIGHT, IMAGES, RGB, RGBA, WIDTH, encoded

BANDS = np.random.default_rng(1).integers(0, 256, (HEIGHT, WIDTH, 6), dtype=np.uint8)
#: Kinds of which Pillow's own conversion is the answer.
PLAIN = {
    "rgb": encoded(RGB, "PNG"),
    "jpeg": encoded(RGB, "JPEG"),
    "rgba": encoded(RGBA, "PNG"),
    "grey": encoded(RGB.convert("L"), "PNG"),
    "grey and alpha": encoded(RGBA.convert("LA"), "PNG"),
    "palette": encoded(RGB.quantize(32), "PNG"),
    "bits": encoded(RGB.convert("1"), "PNG"),
    "tiff": encoded(RGB, "TIFF"),
    "tiff rgba": encoded(RGBA, "TIFF"),
    "gif": encoded(RGB.quantize(32), "GIF"),
}


def tiff_of(bands: np.ndarray, photometric: int = 1, planar: int = 1, compression: int = 1, extra: int = 0) -> bytes:
    """A TIFF file of one strip, or one strip a band: bands (H, W, C) of 8 or 16 bits."""
    height, width, count = bands.shape
    parts = [bands.tobytes()] if planar == 1 else [np.moveaxis(bands, 2, 0)[i].tobytes() for i in range(count)]
    parts = [zlib.compress(part) for part in parts] if compression == 8 else parts
    values: list[tuple[int, int, list[int]]] = [
        (256, 4, [width]),
        (257, 4, [height]),
        (258, 3, [8 * bands.itemsize] * count),
        (259, 3, [compression]),
        (262, 3, [photometric]),
        (273, 4, [0] * len(parts)),
        (277, 3, [count]),
        (278, 4, [height]),
        (279, 4, [len(part) for part in parts]),
        (284, 3, [planar]),
        (338, 3, [extra] * (count - (3 if photometric == 2 else 1))),
    ]
    values = [value for value in values if value[2]]
    end = 8 + 2 + 12 * len(values) + 4
    beyond, entries, places = b"", b"", []

    def packed(kind: int, numbers: list[int]) -> bytes:
        return struct.pack(f"<{len(numbers)}{'H' if kind == 3 else 'I'}", *numbers)

    size = sum(len(packed(kind, numbers)) for _, kind, numbers in values if len(packed(kind, numbers)) > 4)
    at = end + size
    for part in parts:
        places.append(at)
        at += len(part)
    for tag, kind, numbers in values:
        content = packed(kind, places if tag == 273 else numbers)
        if len(content) > 4:
            content, beyond = struct.pack("<I", end + len(beyond)), beyond + content
        entries += struct.pack("<HHI", tag, kind, len(numbers)) + content.ljust(4, b"\0")
    return b"II*\0" + struct.pack("<IH", 8, len(values)) + entries + bytes(4) + beyond + b"".join(parts)


def pages_of(bands: np.ndarray) -> bytes:
    first, *others = (Image.fromarray(np.ascontiguousarray(bands[:, :, i])) for i in range(bands.shape[2]))
    return encoded(first, "TIFF", save_all=True, append_images=others)


@pytest.mark.parametrize("library", ["cv2", "pil"])
@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (2, "LA"), (4, "RGBA")])
@pytest.mark.parametrize("kind", PLAIN)
def test_it_is_pillows_conversion(kind, channels, mode, library):
    image = Image.open(io.BytesIO(PLAIN[kind]))
    expected = np.asarray((image.convert("L") if kind == "bits" else image).convert(mode)).reshape(HEIGHT, WIDTH, -1)
    found = decode(PLAIN[kind], library, channels)
    assert found.dtype == np.uint8
    assert np.array_equal(found, expected)
    assert np.array_equal(pixels(Image.open(io.BytesIO(PLAIN[kind])), library, channels), expected)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bits_lose_the_lower_eight(kind):
    data = encoded(Image.fromarray(DEEP[:, :, 0].copy()), kind)
    grey = (DEEP[:, :, 0] >> 8).astype(np.uint8)
    assert np.array_equal(decode(data, channels=1)[:, :, 0], grey)
    for channels in (2, 4):
        found = decode(data, channels=channels)
        assert all(np.array_equal(found[:, :, index], grey) for index in range(channels - 1))
        assert (found[:, :, -1] == 255).all()


def test_inks_are_the_colours_that_rgb_has():
    data = IMAGES["jpeg cmyk"]
    assert np.array_equal(decode(data, channels=4)[:, :, :3], decode(data))
    assert np.array_equal(decode(data, channels=1)[:, :, 0], np.asarray(Image.fromarray(decode(data)).convert("L")))


@pytest.mark.parametrize("channels", [1, 2, 4])
def test_an_image_lies_as_its_orientation_says(channels):
    data = encoded(RGB, "JPEG", orientation=6)
    assert decode(data, "cv2", channels).shape == (WIDTH, HEIGHT, channels)
    assert decode(data, "pil", channels).shape == (HEIGHT, WIDTH, channels)


@pytest.mark.parametrize("channels", [2, 4, 5, 6])
def test_grey_pages_are_the_channels(channels):
    bands = BANDS[:, :, :channels]
    data = pages_of(bands)
    assert np.array_equal(decode(data, channels=channels), bands)
    image = Image.open(io.BytesIO(data))
    assert np.array_equal(pixels(image, channels=channels), bands)
    assert image.tell() == 0
    assert own_channels(data) == channels
    deep = pages_of(bands.astype(np.uint16) * 256 + 77)
    assert np.array_equal(decode(deep, channels=channels), bands)
    assert np.array_equal(decode(data), np.repeat(bands[:, :, :1], 3, axis=2)), "of RGB, the first page, as ever"


def test_a_thumbnail_is_no_channel():
    small = RGB.convert("L").resize((8, 6))
    data = encoded(RGB.convert("L"), "TIFF", save_all=True, append_images=[small])
    assert np.array_equal(decode(data, channels=1)[:, :, 0], np.asarray(RGB.convert("L")))


@pytest.mark.parametrize(
    ("data", "channels", "said"),
    [
        (pages_of(BANDS[:, :, :4]), 5, "has 4 grey pages of one size, expected: 5"),
        (pages_of(BANDS), 5, "has more than 5 grey pages of one size, expected: 5"),
        (pages_of(BANDS[:, :, :2]), 1, "has more than 1 grey page of one size, expected: 1"),
        (PLAIN["jpeg"], 5, r"has 3 channels \(RGB\), expected: 5"),
        (PLAIN["grey"], 7, r"has 1 channel \(L\), expected: 7"),
        (tiff_of(BANDS), 5, "has 6 bands, expected: 5"),
        (tiff_of(BANDS), 4, "has 6 bands, expected: 4"),
        (tiff_of(BANDS[:, :, :5]), 3, "has 5 bands, expected: 3"),
        (tiff_of(BANDS[:, :, :4]), 3, "has 4 bands, expected: 3"),
        (tiff_of(BANDS[:, :, :5], photometric=2), 1, "has 5 bands, expected: 1"),
    ],
)
def test_another_number_is_one_line_that_names_both(data, channels, said):
    with pytest.raises(PpclsExtError, match=said) as caught:
        decode(data, channels=channels)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("deep", [False, True])
@pytest.mark.parametrize("compression", [1, 8])
@pytest.mark.parametrize("planar", [1, 2])
@pytest.mark.parametrize(("channels", "photometric"), [(2, 1), (4, 1), (4, 2), (5, 1), (5, 2), (6, 1)])
def test_bands_are_the_channels(channels, photometric, planar, compression, deep):
    pytest.importorskip("tifffile")
    bands = BANDS[:, :, :channels]
    data = tiff_of(bands.astype(np.uint16) * 256 + 9 if deep else bands, photometric, planar, compression)
    assert np.array_equal(decode(data, channels=channels), bands)


def test_a_fourth_band_is_not_weighed_by():
    """Of a file that calls it alpha: Pillow reads that."""
    assert np.array_equal(decode(tiff_of(GREYS, photometric=2, extra=2), channels=4), GREYS)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda data: data.replace(struct.pack("<HHII", 259, 3, 1, 1), struct.pack("<HHII", 259, 3, 1, 5)), "LZW"),
        (lambda data: tiff_of(BANDS[:, :, :5].astype(np.uint32)), "of 8 or 16 bits"),
        (lambda data: data[: len(data) // 2], "damaged"),
    ],
)
def test_bands_that_are_not_read(change, said):
    pytest.importorskip("tifffile")
    with pytest.raises(PpclsExtError, match=said):
        decode(change(tiff_of(BANDS[:, :, :5])), channels=5)


def test_a_part_that_inflates_is_refused_before_it_does():
    pytest.importorskip("tifffile")
    data = tiff_of(np.zeros((HEIGHT, WIDTH, 5), np.uint8), compression=8)
    own = zlib.compress(bytes(5 * HEIGHT * WIDTH))
    bomb = zlib.compress(bytes(50_000_000))
    data = data.replace(struct.pack("<HHII", 279, 4, 1, len(own)), struct.pack("<HHII", 279, 4, 1, len(bomb)))
    with pytest.raises(PpclsExtError, match="inflates to more than its 9,620 bytes"):
        decode(data.replace(own, bomb), channels=5)


def test_a_page_that_is_too_large_is_refused(monkeypatch):
    data = pages_of(BANDS[:, :, :4])
    monkeypatch.setenv("PPCLS_EXT_MAX_IMAGE_PIXELS", str(HEIGHT * WIDTH - 1))
    for channels in (1, 4, 5):
        with pytest.raises(PpclsExtError, match="too large"):
            decode(data, channels=channels)
    monkeypatch.setenv("PPCLS_EXT_MAX_IMAGE_PIXELS", str(2 * HEIGHT * WIDTH - 1))
    assert decode(data, channels=4).shape[2] == 4
    with pytest.raises(PpclsExtError, match="too large"):
        decode(pages_of(BANDS[:, :, :5]), channels=5)


def test_pages_in_a_circle_come_to_an_end():
    data = bytearray(pages_of(BANDS[:, :, :2]))
    (at,) = struct.unpack_from("<I", data, 4)
    (second,) = struct.unpack_from("<I", data, at + 2 + 12 * struct.unpack_from("<H", data, at)[0])
    end = second + 2 + 12 * struct.unpack_from("<H", data, second)[0]
    struct.pack_into("<I", data, end, at)
    assert np.array_equal(decode(bytes(data), channels=2), BANDS[:, :, :2])


@pytest.mark.parametrize("backend", ["cv2", "pil"])
@pytest.mark.parametrize("channels", [1, 2, 4, 5])
def test_channels_are_resized_one_by_one(channels, backend):
    rule = Preprocessing(resize_short=30, crop=(24, 20), backend=backend, channels=channels)
    image = BANDS[:, :, :channels].copy()
    found = resize_and_crop(image, rule)
    assert found.shape == (20, 24, channels)
    grey = Preprocessing(resize_short=30, crop=(24, 20), backend=backend)
    for index in range(channels):
        plane = np.repeat(image[:, :, index : index + 1], 3, axis=2)
        assert np.array_equal(found[:, :, index], resize_and_crop(plane, grey)[:, :, 0])


def test_every_form_of_an_image_gives_the_same_input(tmp_path):
    rule = Preprocessing(resize_short=32, crop=(32, 32), channels=4)
    path = tmp_path / "image.png"
    path.write_bytes(PLAIN["rgba"])
    with path.open("rb") as file:
        forms = [path, str(path), PLAIN["rgba"], file, RGBA, GREYS]
        inputs = [network_input(form, rule) for form in forms]
    assert all(np.array_equal(one, inputs[0]) for one in inputs)
    assert PreparedImages([path, RGBA], rule).shape == (2, 4, 32, 32)
    with pytest.raises(PpclsExtError, match=r"uint8 \(37, 52, 3\): expected uint8 \(H, W, 4\)"):
        network_input(GREYS[:, :, :3], rule)
    with pytest.raises(PpclsExtError, match=r"expected uint8 \(H, W, 3\), RGB"):
        network_input(GREYS, Preprocessing())


def test_mean_and_std_have_a_number_a_channel():
    assert Preprocessing(channels=1).mean == (round((0.485 + 0.456 + 0.406) / 3, 6),)
    assert Preprocessing(channels=5).std == (0.229, 0.224, 0.225, 0.229, 0.224)
    assert Preprocessing(channels=2, mean=0.5, std=(0.1, 0.2)).mean == (0.5, 0.5)
    assert for_channels((0.1, 0.2, 0.3), 4) == (0.1, 0.2, 0.3, 0.1)
    assert "channels" not in Preprocessing().to_json()
    assert Preprocessing(**{**Preprocessing(channels=2).to_json()}) == Preprocessing(channels=2)
    for fields, said in (
        ({"channels": 0}, "channels is 0"),
        ({"channels": True}, "channels is True"),
        ({"channels": 129}, "1 to 128"),
        ({"channels": 2, "mean": (0.1, 0.2, 0.3)}, "expected 2, 2 and 1 numbers"),
        ({"channels": 4, "channel_order": "BGR"}, "BGR is for 3 channels, and there are 4"),
        ({"channels": 128, "crop": (3000, 3000), "resize_short": 3000}, "expected at most"),
    ):
        with pytest.raises(PpclsExtError, match=said):
            Preprocessing(**fields)


def test_a_check_decodes_to_the_channels(tmp_path):
    paths = [tmp_path / "bands.tif", tmp_path / "rgb.png"]
    paths[0].write_bytes(pages_of(BANDS[:, :, :5]))
    paths[1].write_bytes(PLAIN["rgb"])
    faults = find_faults(paths, channels=5)
    assert faults[0] is None
    assert "expected: 5" in str(faults[1])


def test_lists_and_shards_leave_out_what_has_other_channels(tmp_path):
    for name in ("a", "b"):
        (tmp_path / "images" / name).mkdir(parents=True)
        for index in range(2):
            bands = np.random.default_rng(ord(name) + index).integers(0, 256, (8, 9, 5), dtype=np.uint8)
            (tmp_path / "images" / name / f"{index}.tif").write_bytes(pages_of(bands + np.uint8(index)))
    (tmp_path / "images" / "a" / "rgb.png").write_bytes(PLAIN["rgb"])
    made = make_lists(tmp_path / "images", tmp_path / "lists", 0.5, channels=5)
    assert made.images == (2, 2)
    assert [(item.path.name, item.kind) for item in made.left_out] == [("rgb.png", "unreadable")]
    assert pack_folder(tmp_path / "images", tmp_path / "packed", 1, 0.5, 0, channels=5).images == (2, 2)
    table = "path,x,y\na/0.tif,1,0\nb/0.tif,0,1\na/1.tif,1,0\nb/1.tif,1,1\na/rgb.png,1,0\n"
    (tmp_path / "labels.csv").write_text(table)
    several = make_label_lists(tmp_path / "images", tmp_path / "labels.csv", tmp_path / "several", 0.5, channels=5)
    assert sum(several.images) == 4


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (64, (64, 64)),
        ("64", (64, 64)),
        ("128x96", (128, 96)),
        ("128×96", (128, 96)),
        ([3, 4], (3, 4)),
        ((3, 4), (3, 4)),
    ],
)
def test_sizes(value, expected):
    assert read_size(value) == expected
    assert read_size(size_text(*expected)) == expected


@pytest.mark.parametrize(
    "value", [0, -1, 1.0, True, None, "", "x", "1x", "1x2x3", "-1x2", [1], [1, 2, 3], 1 << 17, "١"]
)
def test_what_is_no_size(value):
    assert read_size(value) is None


def test_a_rule_for_another_size_and_for_the_whole_of_an_image():
    rule = Preprocessing(resize_short=256, crop=(224, 224))
    assert rule.of_size(112, 112) == Preprocessing(resize_short=128, crop=(112, 112))
    assert rule.of_size(224, 224) is rule
    assert rule.of_size(128, 96) == Preprocessing(resize_short=None, resize=(110, 146), crop=(96, 128))
    assert rule.whole(512, 1024) == Preprocessing(resize_short=None, resize=(512, 256), crop=None)
    assert rule.whole(300, 400).image_size == (352, 256)
    tall = Preprocessing(resize_short=None, resize=(110, 146), crop=(96, 128))
    assert tall.of_size(64, 48) == Preprocessing(resize_short=None, resize=(55, 73), crop=(48, 64))
    with pytest.raises(PpclsExtError, match=r"an image size is \(15360000, 256\)"):
        rule.whole(1, 60_000)
