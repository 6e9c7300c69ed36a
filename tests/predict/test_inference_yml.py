"""ppcls_ext.predict.inference_yml: what PaddleX reads, and back."""

from __future__ import annotations

import dataclasses

import pytest
import yaml

from ppcls_ext.data.image_rule import Preprocessing
from ppcls_ext.errors import PpclsExtError
from ppcls_ext.predict.inference_yml import WORDS, other_in_paddlex, paddlex_name, read_inference_yml, to_inference_yml
from ppcls_ext.predict.metadata import Metadata

RULES = [
    Preprocessing(),
    Preprocessing(resize_short=None, resize=(40, 30), crop=None, interpolation="area", scale=0.5, mean=(0, 1, 2)),
    Preprocessing(resize_short=250, crop=(200, 180), backend="pil", interpolation="bicubic", std=(1.0, 2.0, 3.0)),
]


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("names", [None, ("rose", "", "菊花")])
def test_round_trip(rule, names, tmp_path):
    metadata = Metadata("RepVGG_A0", rule, names)
    path = tmp_path / "inference.yml"
    path.write_text(to_inference_yml(metadata), encoding="utf-8")
    assert read_inference_yml(path) == metadata


@pytest.mark.parametrize("names", [None, ("rose", "", "菊花")])
@pytest.mark.parametrize("thresholds", [None, (0.3, 0.3, 0.3), (0.3, 0.4, 1.0)])
def test_round_trip_of_several_labels(names, thresholds, tmp_path):
    metadata = Metadata("FasterNet_T0", Preprocessing(), names, task="multi-label", thresholds=thresholds)
    path = tmp_path / "inference.yml"
    path.write_text(to_inference_yml(metadata), encoding="utf-8")
    assert read_inference_yml(path) == metadata


def test_several_labels_in_the_words_of_paddlex_s_multi_label_module():
    """Its `build_threshoutput(threshold, label_list)` takes a float, never a whole number, or a list of them."""
    rule = Preprocessing(resize_short=None, resize=(32, 32), crop=None)
    known = Metadata("RepVGG_A0", rule, ("a", "b"), task="multi-label", thresholds=(1, 1))
    said = yaml.safe_load(to_inference_yml(known))
    assert said["Global"]["model_name"] == "RepVGG_A0_ML"
    assert said["PostProcess"] == {"MultiLabelThreshOutput": {"threshold": 1.0, "label_list": ["a", "b"]}}
    assert type(said["PostProcess"]["MultiLabelThreshOutput"]["threshold"]) is float
    assert other_in_paddlex(known) == []
    unlike = dataclasses.replace(known, thresholds=(0.5, 0.6), class_names=None, preprocessing=Preprocessing())
    crop, threshold, names = other_in_paddlex(unlike)
    assert "leaves CropImage out" in crop
    assert "one threshold" in threshold
    assert "without class names" in names
    assert other_in_paddlex(dataclasses.replace(unlike, task="single-label", thresholds=None)) == []


@pytest.mark.parametrize("threshold", ["2", "'0.5'", "[0.5, -1]", "{default: 0.5}", "null", "0.4"])
def test_damaged_thresholds(threshold, tmp_path):
    text = to_inference_yml(Metadata("RepVGG_A0", Preprocessing(), task="multi-label"))
    path = tmp_path / "inference.yml"
    path.write_text(text.replace("threshold: 0.5", f"threshold: {threshold}"))
    with pytest.raises(PpclsExtError, match="not as ppcls-ext export-model writes it"):
        read_inference_yml(path)


def test_the_words_are_paddlex_s():
    said = yaml.safe_load(to_inference_yml(Metadata("FasterNet_T0", Preprocessing(), ("a", "b"))))
    assert said["Global"]["model_name"] == "FasterNet-T0"
    resize = {"resize_short": 256, "interpolation": "LINEAR", "backend": "cv2"}
    assert said["PreProcess"]["transform_ops"][0] == {"ResizeImage": resize}
    assert said["PreProcess"]["transform_ops"][-1] == {"ToCHWImage": None}
    assert said["PostProcess"] == {"Topk": {"topk": 5, "label_list": ["a", "b"]}}
    assert paddlex_name("MobileOne_S0") == "MobileOne_S0"
    assert WORDS["pil"]["bilinear"] == "BILINEAR"


@pytest.mark.parametrize(
    "rule",
    [
        Preprocessing(decode="pil"),
        Preprocessing(channel_order="BGR"),
        Preprocessing(backend="pil", interpolation="hamming"),
    ],
)
def test_what_paddlex_cannot_do_is_said(rule):
    with pytest.raises(PpclsExtError, match="PaddleX has no images decoded by"):
        to_inference_yml(Metadata("RepVGG_A0", rule))


@pytest.mark.parametrize("text", ["", "[1, 2]", "a: {b", "PreProcess: {transform_ops: [{ResizeImage: {backend: gd}}]}"])
def test_other_files_are_refused(text, tmp_path):
    path = tmp_path / "inference.yml"
    path.write_text(text)
    with pytest.raises(PpclsExtError, match="not as ppcls-ext export-model writes it"):
        read_inference_yml(path)
    with pytest.raises(PpclsExtError, match="export-model writes it"):
        read_inference_yml(tmp_path / "none.yml")
