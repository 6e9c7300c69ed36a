"""ppcls_ext.predict.inference_yml: what PaddleX reads, and back."""

from __future__ import annotations

import pytest
import yaml

from ppcls_ext.data.image_rule import Preprocessing
from ppcls_ext.errors import PpclsExtError
from ppcls_ext.predict.inference_yml import WORDS, paddlex_name, read_inference_yml, to_inference_yml
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
