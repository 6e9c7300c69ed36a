"""ppcls_ext.predict.metadata."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ppcls_ext.config.load import load_config
from ppcls_ext.config.shipped import RECIPES
from ppcls_ext.data.image_rule import Preprocessing, parse_scale, rule_from_transforms
from ppcls_ext.data.lists import read_class_names
from ppcls_ext.errors import PpclsExtError
from ppcls_ext.predict.metadata import Metadata
from tests.tiny_net import METADATA

CONFIGS = [Path(__file__).resolve().parents[2] / "configs" / name for name in sorted(RECIPES)]
TRANSFORMS = [
    {"DecodeImage": {"to_rgb": True, "channel_first": False}},
    {"ResizeImage": {"resize_short": 256}},
    {"CropImage": {"size": 224}},
    {"NormalizeImage": {"scale": "1.0/255.0", "mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.4], "order": ""}},
    {"ToCHWImage": None},
]


def changed(operator: str, **options) -> list:
    return [
        {name: {**(old or {}), **options} if name == operator else old}
        for step in TRANSFORMS
        for name, old in step.items()
    ]


def test_round_trip_keeps_everything():
    assert Metadata.from_properties(METADATA.to_properties()) == METADATA
    other = Metadata(
        "RepVGG_A0",
        Preprocessing("pil", "BGR", None, (300, 200), "lanczos", "pil", None, 0.5, (1.0, 2.0, 3.0), (4.0, 5.0, 6.0)),
    )
    assert Metadata.from_properties(other.to_properties()) == other
    assert json.loads(other.to_properties()["input_size"]) == [3, 200, 300]


def test_properties_are_strings():
    assert all(type(value) is str for value in METADATA.to_properties().values())


def test_transforms_as_in_paddleclas():
    rule = rule_from_transforms(TRANSFORMS)
    assert rule == Preprocessing(mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))
    assert rule_from_transforms(changed("ResizeImage", backend="PIL")).interpolation == "bicubic"
    assert rule_from_transforms(changed("DecodeImage", to_rgb=False)).channel_order == "BGR"
    both = rule_from_transforms(changed("ResizeImage", resize_short=None, size=[300, 240]))
    assert (both.resize_short, both.resize) == (None, (300, 240))
    swapped = [*TRANSFORMS[:3], TRANSFORMS[4], changed("NormalizeImage", order="chw")[3]]
    assert rule_from_transforms(swapped) == rule


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_configuration_can_be_described(path):
    config = load_config(path)
    rule = rule_from_transforms(config["Infer"]["transforms"])
    assert [3, *rule.image_size[::-1]] == config["Global"]["image_shape"]


@pytest.mark.parametrize(
    ("transforms", "said"),
    [
        ([{"RandFlipImage": None}, *TRANSFORMS], "RandFlipImage"),
        (TRANSFORMS[:-1], "ToCHWImage"),
        ([TRANSFORMS[2], *TRANSFORMS[:2], *TRANSFORMS[3:]], "CropImage"),
        ([*TRANSFORMS, TRANSFORMS[-1]], "ToCHWImage, ToCHWImage"),
        (["DecodeImage", 5], "a transform is 5"),
        (changed("ResizeImage", antialias=True), "antialias"),
        (changed("ResizeImage", interpolation="random"), "random"),
        (changed("ResizeImage", backend="torch"), "torch"),
        (changed("ResizeImage", resize_short=200), "larger"),
        (changed("ResizeImage", resize_short=None), "resize_short=None"),
        (changed("ResizeImage", resize_short=256.5), "256.5"),
        (changed("CropImage", size=0), "0"),
        (changed("NormalizeImage", order="chw"), "order"),
        (changed("NormalizeImage", scale="__import__('os')"), "scale"),
        (changed("NormalizeImage", std=[1, 1, 0]), "std"),
        (changed("NormalizeImage", mean=[0.5]), "mean"),
        (changed("NormalizeImage", channel_num=4), "4 channels"),
        (changed("DecodeImage", channel_first=True), "channel_first"),
    ],
)
def test_transforms_that_cannot_be_described_are_refused(transforms, said):
    with pytest.raises(PpclsExtError, match=said.replace("(", r"\(")):
        rule_from_transforms(transforms)


@pytest.mark.parametrize(("text", "value"), [("1.0/255.0", 1 / 255), (0.5, 0.5), ("2", 2.0), ("1e-2", 0.01)])
def test_scale(text, value):
    assert parse_scale(text) == value


@pytest.mark.parametrize("scale", ["1/0", "a", "1/2/3", "", None])
def test_wrong_scale(scale):
    with pytest.raises(PpclsExtError, match="scale"):
        parse_scale(scale)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"schema_version": None}, "export-onnx"),
        ({"preprocessing": None}, "export-onnx"),
        ({"schema_version": "2"}, "schema 2"),
        ({"preprocessing": "{"}, "damaged"),
        ({"preprocessing": "[1]"}, "damaged"),
        ({"preprocessing": '{"colour": 1}'}, "damaged"),
        ({"preprocessing": '{"backend": "gd"}'}, "gd"),
        ({"class_names": '{"0": "a"}'}, "damaged"),
        ({"class_names": "[1, 2]"}, "damaged"),
        ({"architecture": None}, "damaged"),
    ],
)
def test_damaged_properties_are_refused(change, said):
    properties = {key: value for key, value in {**METADATA.to_properties(), **change}.items() if value is not None}
    with pytest.raises(PpclsExtError, match=said):
        Metadata.from_properties(properties)


def test_class_names(tmp_path):
    path = tmp_path / "names.txt"
    path.write_text("0 pink primrose\n3 菊花 \n1 Gänseblümchen\n\n", encoding="utf-8")
    assert read_class_names(path) == ("pink primrose", "Gänseblümchen", "", "菊花")
    path.write_text("0,a b\n1,c", encoding="utf-8")
    assert read_class_names(path, ",") == ("a b", "c")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"a 0\n", ":1: got 'a 0'"),
        (b"0 a\n0 b\n", ":2:"),
        (b"0 \xff\n", "UTF-8"),
        (None, "No such file"),
        (b"-1 a", ":1:"),
    ],
)
def test_wrong_class_names(tmp_path, content, said):
    path = tmp_path / "names.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(PpclsExtError, match=said) as caught:
        read_class_names(path)
    assert str(path) in str(caught.value)
