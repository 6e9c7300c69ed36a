"""The pictures of --calibration, and export_onnx.py --int8 and --fp16 from end to end."""

from __future__ import annotations

import json
import shutil

import numpy as np
import onnx
import pytest
from PIL import Image

from ppcls_ext.config.settings import RunSettings
from ppcls_ext.data.image_rule import Preprocessing
from ppcls_ext.errors import PpclsExtError
from ppcls_ext.run import Run
from tests.commands.test_export_onnx import export, small_config
from tests.helpers import needs_converter

RULE = Preprocessing(resize_short=36, crop=(32, 32))


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """40 images in two class folders, and lists of them."""
    root = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    names = [f"class {index % 2}/{index:02}.png" for index in range(40)]
    for index, name in enumerate(names):
        (root / name).parent.mkdir(exist_ok=True)
        coarse = rng.integers(0, 256, (5, 5, 3), dtype=np.uint8)
        Image.fromarray(coarse.repeat(8 + index % 2, axis=0).repeat(8, axis=1)).save(root / name)
    (root / "labelled.txt").write_text("".join(f"{name} {index % 2}\n" for index, name in enumerate(names)))
    (root / "plain.txt").write_text("\n".join(names))
    return root


def calibration_pictures(place, config, count, rule, seed=0):
    return Run(RunSettings(config)).calibration_images(place, count, rule, seed)


def run_of(root, folder):
    dataset = {"name": "ImageNetDataset", "image_root": str(root), "cls_label_path": str(root / "labelled.txt")}
    return {
        "Global": {"output_dir": str(folder.parent)},
        "Arch": {"name": folder.name},
        "DataLoader": {"Train": {"dataset": dataset}},
    }


def test_a_list_a_folder_a_run_and_the_configuration_name_the_same_images(pictures, tmp_path):
    config = run_of(pictures, tmp_path)
    (tmp_path / "config.yml").write_text(json.dumps(config))
    places = [None, str(pictures / "labelled.txt"), str(pictures / "plain.txt"), str(pictures), str(tmp_path)]
    found = [calibration_pictures(place, config, 500, RULE) for place in places]
    assert found[0].shape == (40, 3, 32, 32)
    for other in found[1:]:
        np.testing.assert_array_equal(other, found[0])


def test_a_run_that_was_moved_and_another_delimiter(pictures, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(pictures, run / "lists")
    listed = (run / "lists" / "labelled.txt").read_text()
    (run / "lists" / "labelled.txt").write_text(
        "".join("\t".join(line.rsplit(" ", 1)) for line in listed.splitlines(True))
    )
    config = run_of(run / "lists", run)
    config["DataLoader"]["Train"]["dataset"]["delimiter"] = "\t"
    (run / "config.yml").write_text(json.dumps(config))
    run.rename(tmp_path / "moved")
    found = calibration_pictures(str(tmp_path / "moved"), {}, 500, RULE)
    np.testing.assert_array_equal(found, calibration_pictures(str(pictures), {}, 500, RULE))


def test_some_are_chosen_by_the_seed(pictures):
    first, again, other = (calibration_pictures(str(pictures), {}, 8, RULE, seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert first.shape == other.shape == (8, 3, 32, 32)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize(
    ("place", "said"),
    [
        ("nowhere.txt", "no list .*nowhere.txt"),
        ("missing.txt", r"missing.txt:1: no image 'gone.png 3' below"),
        ("empty", "the folder holds no image; expected files"),
        (None, "names no training images .*: give --calibration"),
    ],
)
def test_what_holds_no_images_is_refused(place, said, tmp_path):
    (tmp_path / "missing.txt").write_text("gone.png 3\n")
    (tmp_path / "empty").mkdir()
    with pytest.raises(PpclsExtError, match=said):
        calibration_pictures(place and str(tmp_path / place), {}, 8, RULE)


@needs_converter
def test_int8_from_a_configuration(pictures, tmp_path, capsys):
    output = tmp_path / "int8.onnx"
    options = ["--int8", "--calibration", pictures, "--allow", "--output", output]
    assert export("-c", small_config(tmp_path), *options) == 0
    printed = capsys.readouterr().out
    assert "calibrated on 20 images" in printed
    assert "the same class as fp32 on" in printed
    assert "43 QLinearConv" in printed
    model = onnx.load(output)
    assert model.opset_import[0].version == 20
    properties = {entry.key: entry.value for entry in model.metadata_props}
    assert json.loads(properties["quantization"])["type"] == "int8"
    assert json.loads(properties["class_names"])[0] == "rose"


@needs_converter
def test_fp16_from_a_configuration(tmp_path, capsys):
    assert export("-c", small_config(tmp_path), "--fp16", "--output", tmp_path / "half.onnx") == 0
    assert "fp16    0.51 of fp32's size" in capsys.readouterr().out


@needs_converter
def test_too_few_images_leave_nothing(pictures, tmp_path, capsys):
    options = ["--int8", "--calibration", pictures / "class 0", "--output", tmp_path / "int8.onnx"]
    assert export("-c", small_config(tmp_path), *options) == 1
    assert "20 calibration images: expected 32 to 500" in capsys.readouterr().err
    assert not (tmp_path / "int8.onnx").exists()


@pytest.mark.parametrize("spelling", ["--calibration-images", "--calibration-pictures"])  # the name until version 0.2
def test_too_many_images_are_refused_before_one_is_read(spelling, tmp_path, capsys):
    options = ["--int8", "--calibration", tmp_path / "none", spelling, 100_000]
    assert export("-c", small_config(tmp_path), *options, "--output", tmp_path / "int8.onnx") == 1
    assert "int8 got 100000 calibration images: expected 32 to 500" in capsys.readouterr().err


@pytest.mark.parametrize("options", [["--calibration", "x"], ["--allow"], ["--int8", "--fp16"]])
def test_options_that_need_each_other(options, tmp_path):
    with pytest.raises(SystemExit) as stopped:
        export("-c", small_config(tmp_path), *options)
    assert stopped.value.code == 2
