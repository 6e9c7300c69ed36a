"""--size sets every place."""

from __future__ import annotations

import pytest
import yaml

from ppcls_ext.config.load import load_config, set_image_size
from ppcls_ext.data.image_rule import rule_from_transforms
from ppcls_ext.errors import PpclsExtError
from tests.helpers import ROOT


def rules(config: dict) -> list:
    evaluation = [*config["DataLoader"]["Eval"]["dataset"]["transform_ops"], "ToCHWImage"]
    return [rule_from_transforms(evaluation), rule_from_transforms(config["Infer"]["transforms"])]


@pytest.mark.parametrize(
    "name",
    [
        *("MobileOne_S0.yml", "digits/MobileOne_S0.yml", "ImageNet/MobileOne/MobileOne_S4.yaml"),
        *("ImageNet/RepVGG/RepVGG_D2se.yaml", "ImageNet/FasterNet/FasterNet_L.yaml"),
    ],
)
def test_shipped_configurations(name):
    path = ROOT / "configs" / name
    before = load_config(path)
    config = load_config(path, ["Global.image_size=128"])
    assert "image_size" not in config["Global"]
    assert config["Global"]["image_shape"] == [3, 128, 128]
    for old, new in zip(rules(before), rules(config)):
        assert new.crop == (128, 128)
        assert new.resize_short == round(old.resize_short * 128 / old.crop[0])
    train = config["DataLoader"]["Train"]["dataset"]["transform_ops"]
    assert next(op["RandCropImage"]["size"] for op in train if "RandCropImage" in op) == 128
    stages = [stage["size"] for stage in config.get("Recipe", {}).get("progressive", ())]
    assert not stages or (max(stages) == 128 and stages == sorted(stages))


def test_there_and_back(tmp_path):
    path = ROOT / "configs" / "MobileOne_S0.yml"
    small = tmp_path / "small.yml"
    small.write_text(yaml.safe_dump(load_config(path, ["Global.image_size=128"])))
    assert load_config(small, ["Global.image_size=224"]) == load_config(path)


def test_places_that_disagree_are_made_to_agree():
    train, infer = [{"RandCropImage": {"size": 64}}], [{"ResizeImage": {"size": [224, 448]}}, {"ToCHWImage": None}]
    evaluation = [{"ResizeImage": {"resize_short": 256}}, {"CropImage": {"size": [224, 224]}}]
    config = {
        "Global": {"image_size": 96},
        "DataLoader": {
            "Train": {"dataset": {"transform_ops": train}},
            "Eval": {"dataset": {"transform_ops": evaluation}},
        },
        "Infer": {"transforms": infer},
    }
    set_image_size(config)
    assert train == [{"RandCropImage": {"size": 96}}]
    assert evaluation == [{"ResizeImage": {"resize_short": 110}}, {"CropImage": {"size": [96, 96]}}]
    assert infer[0] == {"ResizeImage": {"size": [96, 96]}}
    assert config["Global"] == {"image_shape": [3, 96, 96]}


@pytest.mark.parametrize(
    "size", [0, -1, 31, 64.0, "large", True, [64], [64, 64, 3], "64x", [64, 31], "64x31", [64.0, 64]]
)
def test_sizes_that_are_none(size):
    with pytest.raises(PpclsExtError, match=r"image_size \(--size\) is .*: expected a whole number of px from 32"):
        set_image_size({"Global": {"image_size": size}})


def test_no_place_to_set():
    config = {"Global": {"image_size": 64}, "Infer": {"transforms": ["ToCHWImage"]}}
    with pytest.raises(PpclsExtError, match=r"Infer\.transforms has no size"):
        set_image_size(config)
