"""tools/export_onnx.py: from a configuration to a file, and back to classes."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import onnx
import paddle
import pytest
import yaml
from PIL import Image

import ppcls_ext
from ppcls_ext.commands import export_onnx as command
from ppcls_ext.commands import predict
from ppcls_ext.commands.outcome import run
from ppcls_ext.config.load import load_config
from ppcls_ext.config.settings import RunSettings
from ppcls_ext.config.shipped import RECIPES
from ppcls_ext.data.image_input import network_input
from ppcls_ext.data.image_rule import Preprocessing
from ppcls_ext.predict.classifier import softmax
from ppcls_ext.predict.metadata import Metadata
from ppcls_ext.run import Run
from tests.helpers import needs_converter, sample_pictures, tool

CONFIGS = Path(__file__).resolve().parents[2] / "configs"


def small_config(folder: Path, **sections) -> Path:
    """A configuration of the smallest model at 32 px, without data."""
    transforms = [
        {"DecodeImage": {"to_rgb": True, "channel_first": False}},
        {"ResizeImage": {"resize_short": 36}},
        {"CropImage": {"size": 32}},
        {"NormalizeImage": {"scale": "1.0/255.0", "order": ""}},
        {"ToCHWImage": None},
    ]
    config = {
        "Global": {"image_shape": [3, 32, 32]},
        "Arch": {"name": "MobileOne_S0", "class_num": 4, "fused": True},
        "Infer": {
            "transforms": transforms,
            "PostProcess": {"name": "Topk", "class_id_map_file": str(folder / "names.txt")},
        },
        **sections,
    }
    (folder / "names.txt").write_text("0 rose\n1 tulip\n2 Gänseblümchen\n3 菊花\n", encoding="utf-8")
    path = folder / "config.yml"
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    return path


def export(*arguments) -> int:
    return run(lambda: command.main([str(argument) for argument in arguments]))


@needs_converter
def test_from_configuration_to_classes(tmp_path, capsys):
    paddle.seed(0)
    model = ppcls_ext.build("MobileOne_S0", class_num=4, fused=True)
    model.eval()
    with paddle.no_grad():  # answers far enough apart to have an order
        logits = model(paddle.randn([2, 3, 32, 32]))
        model.linear.weight.set_value(model.linear.weight / logits.abs().max())
    paddle.save(model.state_dict(), str(tmp_path / "weights.pdparams"))
    picture = tmp_path / "picture.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 40, 3), dtype=np.uint8)).save(picture)
    output = tmp_path / "out" / "model.onnx"
    weights = f"Global.pretrained_model={tmp_path / 'weights'}"
    code = export("-c", small_config(tmp_path), "-o", weights, "--output", output, "--opset", 13, "--samples", picture)
    printed = capsys.readouterr().out
    assert code == 0
    assert f"{output}: " in printed
    assert "opset 13" in printed
    assert "90: 43 Conv, 43 Relu, 1 Flatten, 1 Gemm, 1 GlobalAveragePool, 1 Softmax" in printed
    rule = Preprocessing(resize_short=36, crop=(32, 32))
    names = ("rose", "tulip", "Gänseblümchen", "菊花")
    properties = {entry.key: entry.value for entry in onnx.load(output).metadata_props}
    assert Metadata.from_properties(properties) == Metadata("MobileOne_S0", rule, names)

    assert run(lambda: predict.main(["--model", str(output), "--json", "--topk", "4", str(picture)])) == 0
    (result,) = json.loads(capsys.readouterr().out)
    with paddle.no_grad():
        expected = softmax(model(paddle.to_tensor(network_input(picture, rule)[None])).numpy())[0]
    assert result["class_ids"] == np.argsort(-expected).tolist()
    np.testing.assert_allclose(result["scores"], np.sort(expected)[::-1], atol=1.1e-5)
    assert sorted(result["label_names"]) == sorted(names)


@needs_converter
def test_what_is_missing_is_announced(tmp_path, caplog):
    config = load_config(small_config(tmp_path), ["Infer.PostProcess.class_id_map_file=nowhere.txt"])
    logging.getLogger("ppcls_ext").addHandler(caplog.handler)
    try:
        run = Run(RunSettings(config))
        run.settings.build_model()
        assert run.metadata.class_names is None
    finally:
        logging.getLogger("ppcls_ext").removeHandler(caplog.handler)
    assert "the weights are random" in caplog.text
    assert "no nowhere.txt (Infer.PostProcess.class_id_map_file)" in caplog.text


@pytest.mark.parametrize(
    "path", [CONFIGS / name for name in sorted(RECIPES)], ids=lambda path: str(path.relative_to(CONFIGS))
)
def test_every_configuration_is_described(path):
    config = load_config(path, ["Infer.PostProcess.class_id_map_file=null"])
    described = Run(RunSettings(config)).metadata
    assert described.architecture == config["Arch"]["name"]
    assert [3, *described.preprocessing.image_size[::-1]] == config["Global"]["image_shape"]
    # without Infer, the evaluation dataset's transforms say the same
    del config["Infer"]
    assert Run(RunSettings(config)).metadata == described


@needs_converter
@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("Arch.name=ResNet50", "ResNet50"),
        ("Arch.name=null", "None"),
        ("Arch=5", "Arch is 5"),
        ("Arch.width=2", "width"),
        ("Arch.class_num=3", "has 4 class names, and there are 3 classes"),
        ("Infer.transforms=null", "no Infer.transforms"),
        ("Infer.transforms.2.CropImage.size=64", "larger"),
        ("Global.image_shape=[3, 64, 64]", "image_shape is [3, 64, 64]"),
        ("Global.image_shape=64", "image_shape is 64"),
        (f"Infer.PostProcess.class_id_map_file={__file__}", f"{__file__}:1: got"),
        ("Global.pretrained_model=nowhere", "nowhere"),
    ],
)
def test_wrong_configurations(override, said, tmp_path, capsys):
    config = small_config(tmp_path)
    before = sorted(tmp_path.iterdir())
    assert export("-c", config, "-o", override, "--output", tmp_path / "model.onnx") == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("error: ")
    assert said in last
    assert sorted(tmp_path.iterdir()) == before


@needs_converter
def test_bad_samples_are_refused(tmp_path, capsys):
    config = small_config(tmp_path)
    assert export("-c", config, "--output", tmp_path / "model.onnx", "--samples", config) == 1
    assert f"error: {config}: " in capsys.readouterr().err
    assert not (tmp_path / "model.onnx").exists()


@pytest.mark.parametrize("arguments", [["--batch", "0"], ["--bath", "1"]])
def test_bad_usage(arguments, tmp_path):
    with pytest.raises(SystemExit) as caught:
        command.main(["-c", str(small_config(tmp_path)), *arguments])
    assert caught.value.code == 2


@needs_converter
@pytest.mark.parametrize("opset", [10, 21])
def test_opset_out_of_range(opset, tmp_path, capsys):
    assert export("-c", small_config(tmp_path), "--output", tmp_path / "model.onnx", "--opset", opset) == 1
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert f"opset is {opset}: expected 11 to 20" in error
    assert not (tmp_path / "model.onnx").exists()


@pytest.mark.slow
@needs_converter
def test_published_weights_classify_real_images(shared, tmp_path, capsys):
    """Apple's MobileOne_S0 through the whole way: 83 % top-1 on such pictures, and Paddle says what the file says."""
    labels, output = dict(sample_pictures(shared)), tmp_path / "model.onnx"
    weights = f"Global.pretrained_model={shared / 'weights' / 'mobileone_s0.pth.tar'}"
    overrides = (weights, "Arch.fused=True", "Infer.PostProcess.class_id_map_file=null")
    config = CONFIGS / "ImageNet" / "MobileOne" / "MobileOne_S0.yaml"
    assert export("-c", config, "-o", *overrides, "--output", output, "--samples", *labels) == 0
    capsys.readouterr()
    assert run(lambda: predict.main(["--model", str(output), "--json", "--topk", "1", *map(str, labels)])) == 0
    results = {Path(result["file_name"]): result["class_ids"][0] for result in json.loads(capsys.readouterr().out)}
    right = [name for name, label in labels.items() if results[name] == label]
    assert len(labels) == 20
    assert len(right) >= 16
    folder = shared / "imagenet_samples"
    pictures = [
        f"Infer.infer_imgs={folder}",
        f"Infer.infer_list={folder / 'val_list.txt'}",
        "Infer.save_dir=paddle.json",
    ]
    tool("infer.py", "-c", config, "-o", *overrides, *pictures, folder=tmp_path)
    by_paddle = json.loads((tmp_path / "paddle.json").read_text())
    assert {Path(result["file_name"]): result["class_ids"][0] for result in by_paddle} == results
