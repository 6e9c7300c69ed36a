"""ppcls_ext.predict.metadata: to an ONNX file and back; whatever a file says is read, or refused in one line."""

from __future__ import annotations

import dataclasses
import json
import os
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ppcls_ext.config.load import load_config
from ppcls_ext.config.shipped import RECIPES
from ppcls_ext.data.image_input import resize_and_crop
from ppcls_ext.data.image_rule import LARGEST_AREA, Preprocessing, parse_scale, rule_from_transforms
from ppcls_ext.data.lists import read_class_names
from ppcls_ext.errors import PpclsExtError
from ppcls_ext.predict.classifier import Classifier
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
        (changed("NormalizeImage", channel_num=4), "channel_num"),
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
        ({"schema_version": "3"}, "schema 3, expected 1 or 2: update"),
        ({"schema_version": "2"}, "task is single-label in schema 2"),
        ({"schema_version": "2", "task": None}, "damaged"),
        ({"task": "multi-label"}, "task is multi-label in schema 1"),
        ({"task": "multilabel"}, "damaged"),
        ({"thresholds": "[0.5, 0.5]"}, "thresholds are not numbers"),
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


SHOWN = dataclasses.replace(METADATA, task="multi-label", thresholds=(0.25, 1.0, 0.0, 0.5, 0.1))


def test_multi_label_there_and_back():
    properties = SHOWN.to_properties()
    assert properties["task"] == "multi-label"
    assert json.loads(properties["thresholds"]) == [0.25, 1.0, 0.0, 0.5, 0.1]
    assert Metadata.from_properties(properties) == SHOWN
    unknown = dataclasses.replace(SHOWN, thresholds=None)
    assert "thresholds" not in unknown.to_properties()
    assert Metadata.from_properties(unknown.to_properties()) == unknown


def test_old_readers_read_new_single_label_files_and_new_readers_old_ones():
    """Version 0.1 takes schema 1 alone, and ignores keys that it does not know."""
    properties = METADATA.to_properties()
    assert (properties["schema_version"], properties["task"]) == ("1", "single-label")
    assert SHOWN.to_properties()["schema_version"] == "2"  # which it refuses: it would take scores for probabilities
    del properties["task"]
    assert Metadata.from_properties(properties) == METADATA


@pytest.mark.parametrize(
    "text",
    [
        "0.5",
        "[]",
        "{}",
        "null",
        '["0.5"]',
        "[true]",
        "[0.5, NaN]",
        "[-0.1]",
        "[1.5]",
        "[[0.5]]",
        "{",
        "[Infinity]",
        "[",
    ],
)
def test_damaged_thresholds_are_one_line(text):
    said = read({**SHOWN.to_properties(), "thresholds": text})
    assert "damaged" in said


@pytest.mark.parametrize(("output", "logits"), [("logits", True), ("scores", False), ("fetch_name_0", False)])
def test_what_an_output_still_needs(output, logits):
    assert SHOWN.ends_in_logits(output) is logits
    with pytest.raises(PpclsExtError, match="output is called probabilities, and its metadata say multi-label"):
        SHOWN.ends_in_logits("probabilities")
    with pytest.raises(PpclsExtError, match="output is called scores, and its metadata say single-label"):
        METADATA.ends_in_logits("scores")


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


GOOD = METADATA.to_properties()
RULE = json.loads(GOOD["preprocessing"])
HUGE = int("9" * 400)


def read(properties: dict[str, str]) -> Metadata | str:
    """What they say, or the message about it."""
    try:
        return Metadata.from_properties(properties)
    except PpclsExtError as error:
        message = str(error)
        assert len(message) < 500
        assert "\n" not in message
        return message


@pytest.mark.parametrize("name", RULE)
@pytest.mark.parametrize(
    "value", [HUGE, -HUGE, [HUGE, HUGE], [HUGE] * 3, [1, HUGE], "x" * 10_000, {}, [[]], True, -1, 0, 1e308, "NaN"]
)
def test_no_value_of_the_rule_goes_unchecked(name, value):
    said = read({**GOOD, "preprocessing": json.dumps({**RULE, name: value})})
    if isinstance(said, Metadata):  # a scale of 1e308 is odd, and does no harm
        assert name == "scale" or (name in ("mean", "std") and type(value) is not bool), "one number for all channels"
    else:
        assert said


@pytest.mark.parametrize(
    "rule",
    [
        {"resize_short": 10**6, "crop": [10**6, 10**6]},
        {"resize_short": 60_000, "crop": [60_000, 60_000]},
        {"resize_short": None, "resize": [60_000, 60_000], "crop": None},
        {"crop": [8, 8, 8]},
        {"resize_short": None, "resize": [8]},
    ],
)
def test_sizes_that_no_memory_holds(rule):
    assert "px" in str(read({**GOOD, "preprocessing": json.dumps({**RULE, **rule})}))


@pytest.mark.parametrize("text", ["[" * 100_000, "{" * 9, "1" * 100_000, "NaN", "[]", "null", '"a"', "-", ""])
@pytest.mark.parametrize("field", ["preprocessing", "class_names"])
def test_texts_that_are_no_such_json(field, text):
    said = read({**GOOD, field: text})
    harmless = {"[]": (), "null": None} if field == "class_names" else {}
    assert said.class_names == harmless[text] if text in harmless else "damaged" in said


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.just(HUGE),
    lambda below: st.lists(below, max_size=4) | st.dictionaries(st.text(max_size=4), below, max_size=3),
    max_leaves=6,
)


@settings(max_examples=300, deadline=None)
@given(
    changes=st.dictionaries(st.sampled_from(list(RULE)) | st.text(max_size=4), VALUES, max_size=4),
    other=st.dictionaries(st.sampled_from([*GOOD, "thresholds"]), st.text(max_size=30), max_size=2),
)
def test_any_metadata(changes, other):
    said = read({**GOOD, "preprocessing": json.dumps({**RULE, **changes}), **other})
    if isinstance(said, Metadata):
        width, height = said.preprocessing.image_size
        assert 0 < width * height <= LARGEST_AREA
        result = resize_and_crop(np.zeros((3, 2, 3), np.uint8), said.preprocessing) if width * height < 1e5 else None
        assert result is None or result.shape == (height, width, 3)


@pytest.mark.parametrize("kind", ["FIFO", "endless device"])
def test_files_without_an_end(tmp_path, kind):
    path = tmp_path / "m.onnx" if kind == "FIFO" else "/dev/zero"
    if kind == "FIFO":
        os.mkfifo(path)
    for open_it in (Classifier, read_class_names):
        with pytest.raises(PpclsExtError, match=r"is a (FIFO|device)"):
            open_it(path)


def test_a_batch_that_no_memory_holds(exported, tmp_path):
    model = onnx.load(exported[1])
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 10**9
    model.graph.output[0].type.tensor_type.shape.dim[0].dim_value = 10**9
    onnx.save(model, tmp_path / "m.onnx")
    started = time.perf_counter()
    with pytest.raises(PpclsExtError, match=r"m\.onnx: "):
        Classifier(tmp_path / "m.onnx")
    assert time.perf_counter() - started < 120
