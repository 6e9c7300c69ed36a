"""Whatever an ONNX file says about itself, it is read, or refused in one line; nothing is endless."""

from __future__ import annotations

import json
import os
import time

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ppcls_ext.data.image_input import resize_and_crop
from ppcls_ext.data.image_rule import LARGEST_AREA
from ppcls_ext.data.lists import read_class_names
from ppcls_ext.errors import PpclsExtError
from ppcls_ext.predict.classifier import Classifier
from ppcls_ext.predict.metadata import Metadata
from tests.tiny_net import METADATA

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
        assert name == "scale"
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
    other=st.dictionaries(st.sampled_from(list(GOOD)), st.text(max_size=30), max_size=2),
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
    assert time.perf_counter() - started < 30
