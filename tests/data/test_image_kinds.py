"""One reader of pictures: prediction, infer and evaluation see the same pixels of every kind, or refuse it alike."""

from __future__ import annotations

import copy

import numpy as np
import pytest

from ppcls_ext.data.image_files import decode
from ppcls_ext.data.image_input import network_input
from ppcls_ext.data.image_rule import Preprocessing, rule_from_transforms
from ppcls_ext.errors import PpclsExtError
from tests.data.image_kinds import ZOO
from tests.data.test_image_input import opencv

TRANSFORMS = [
    {"DecodeImage": {"to_rgb": True, "channel_first": False}},
    {"ResizeImage": {"resize_short": 36}},
    {"CropImage": {"size": 32}},
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
# what OpenCV fills up, guesses or reads without looking at checksums
REFUSED = (
    *("tiff lab", "tiff cielab", "tiff of floats", "tiff of three floats", "tiff of 32 bits", "pfm", "svg", "zeros"),
    *("png bad checksum of IDAT", "png bad checksum of IHDR", "jpeg without EOI", "png without IEND"),
    *("png truncated to 99 %", "jpeg truncated to 90 %", "tiff truncated to 99 %", "webp truncated", "empty", "text"),
)
READ = (
    *("ppm", "pgm", "pbm", "ppm 16 bits", "ppm of digits", "tiff 16 bits", "tiff 16 bits rgba", "png 16 bits rgba"),
    *("tiff cmyk", "tiff palette", "png palette and alpha", "gif animated", "jpeg orientation 9"),
)


@pytest.fixture(scope="module")
def operators(registered):
    """PaddleClas's own, as infer and evaluation run them."""
    from ppcls.data import create_operators

    from ppcls_ext.hosts.paddleclas import adaptations

    adaptations.apply()
    return create_operators(copy.deepcopy(TRANSFORMS))


def test_the_zoo_is_large():
    assert len(ZOO) >= 150


@pytest.mark.parametrize("name", ZOO)
def test_the_same_pixels_or_refused_alike(operators, tmp_path, name):
    path = tmp_path / "picture"
    path.write_bytes(ZOO[name])
    try:
        expected = network_input(path, rule_from_transforms(TRANSFORMS))
    except PpclsExtError:
        with pytest.raises(PpclsExtError):
            operators[0](ZOO[name])
        return
    data = ZOO[name]
    for operator in operators:
        data = operator(data)
    np.testing.assert_array_equal(data, expected)


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name):
    with pytest.raises(PpclsExtError) as caught:
        decode(ZOO[name])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", READ)
def test_read(name):
    assert decode(ZOO[name]).shape[2] == 3


# OpenCV before 4.6 shows the colours that a palette lacks as black, too, but in other places
ORDINARY = [name for name in ZOO if name.startswith(("jpeg", "png")) and "2000" not in name and "too short" not in name]


@pytest.mark.parametrize("name", ORDINARY)
def test_ordinary_images_are_what_opencv_makes_of_them(name):
    """Where both read it; so a network sees what it saw when it was trained with PaddleClas alone."""
    expected = opencv(ZOO[name])
    try:
        got = decode(ZOO[name])
    except PpclsExtError:
        return
    if expected is not None:
        np.testing.assert_array_equal(got, expected)


def test_the_reader_can_be_told_that_a_image_is_free_to_be_changed():
    for name in READ:
        assert decode(ZOO[name]).flags.writeable


def test_bytes_only(registered, operators):
    """What is decoded already, PaddleClas handles itself; its options go on working."""
    from ppcls.data.preprocess import DecodeImage

    pixels = decode(ZOO["jpeg"])
    bgr = np.ascontiguousarray(pixels[:, :, ::-1])
    np.testing.assert_array_equal(operators[0](bgr), pixels)
    np.testing.assert_array_equal(DecodeImage(to_rgb=False, channel_first=True)(ZOO["jpeg"]), bgr.transpose(2, 0, 1))


def test_files_that_never_end(tmp_path):
    import os

    os.mkfifo(tmp_path / "fifo.jpg")
    (tmp_path / "endless.jpg").symlink_to("/dev/zero")
    for name in ("fifo.jpg", "endless.jpg"):
        with pytest.raises(PpclsExtError, match="expected a regular file"):
            network_input(tmp_path / name, Preprocessing())
