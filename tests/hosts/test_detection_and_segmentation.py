"""The hosts themselves, where PADDLEDET_HOME, PADDLEYOLO_HOME and PADDLESEG_HOME name their checkouts."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import paddle
import pytest
from PIL import Image

import ppcls_ext
from ppcls_ext.data.shapes import make
from ppcls_ext.errors import PpclsExtError
from ppcls_ext.export.program import program_to_onnx
from ppcls_ext.hosts.checkouts import PADDLEDET, PADDLESEG, PADDLEYOLO
from tests.helpers import ROOT

pytestmark = pytest.mark.slow
#: name → its head, and how its export leaves the non-maximum suppression out; YOLOX's gives sums of boxes and scores.
#: An untrained YOLOX cannot be compared box by box: some of its boxes overlap by 1 but for rounding, and onnxruntime
#: suppresses such at any threshold; benchmarks/downstream.py compares the boxes of a trained one.
DETECTION = {
    "picodet_mobileone_s0": (PADDLEDET, "PicoHeadV2", "export.benchmark=True"),
    "ppyoloe_repvgg_a0": (PADDLEDET, "PPYOLOEHead", "PPYOLOEHead.exclude_nms=True"),
    "yolox_fasternet_t0": (PADDLEDET, "YOLOXHead", "YOLOXHead.exclude_nms=True"),
    "yolov5_repvgg_a0": (PADDLEYOLO, "YOLOv5Head", "YOLOv5Head.exclude_nms=True"),
    "yolov7_mobileone_s0": (PADDLEYOLO, "YOLOv7Head", "YOLOv7Head.exclude_nms=True"),
    "yolov8_fasternet_t0": (PADDLEYOLO, "YOLOv8Head", "YOLOv8Head.exclude_nms=True"),
}
SEGMENTATION = ["pp_liteseg_mobileone_s0", "deeplabv3p_repvgg_a0", "fcn_fasternet_t0"]


def needs(host):
    return pytest.mark.skipif(not os.environ.get(host.home), reason=f"{host.home} names no checkout of {host.title}")


def script(host, name, *arguments, folder, fails=False):
    command = [sys.executable, "-m", "ppcls_ext", str(Path(os.environ[host.home], "tools", name)), *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    text = done.stdout + done.stderr
    assert (done.returncode == 1) == fails, text[-3000:]
    return text


#: Of onnxruntime's outputs from Paddle's, beside what program_to_onnx requires. PaddleYOLO draws all weights anew, and
#: two steps leave networks in which rounding grows: an input moved by a rounding error moves their boxes by 2e-4.
DIFFERENCE = {PADDLEDET: 1e-4, PADDLESEG: 1e-4, PADDLEYOLO: 1e-3}


def export(host, name, *arguments, folder, program):
    """Exports with the host's script, fused and with proof, and makes an ONNX file of `program`; gives its report."""
    text = script(host, name, *arguments, folder=folder)
    assert "blocks fused" in text
    assert "the program differs by" in text
    report = program_to_onnx(folder / program, folder / program.with_suffix(".onnx"))
    assert report.difference < DIFFERENCE[host]
    return report


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A working directory with 16 + 8 pictures."""
    folder = tmp_path_factory.mktemp("work")
    make(folder / "dataset" / "shapes", train=16, val=8)
    return folder


@needs(PADDLEDET)
def test_every_name_in_paddledet():
    ppcls_ext.register_in_paddledet()
    ppcls_ext.register_in_paddledet()
    from ppdet.core.workspace import create, global_config

    for name in ppcls_ext.list_models():
        assert name in global_config
        if "_B" in name or "D2" in name:
            continue  # large
        backbone = create(name)
        assert [(spec.channels, spec.stride) for spec in backbone.out_shape] == list(
            zip(backbone.net.channels[1:], (8, 16, 32))
        )
        backbone.eval()
        with paddle.no_grad():
            maps = backbone({"image": paddle.randn([1, 3, 64, 32])})
        assert [tuple(map_.shape) for map_ in maps] == [
            (1, spec.channels, 64 // spec.stride, 32 // spec.stride) for spec in backbone.out_shape
        ]


@needs(PADDLEDET)
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"return_idx": [4]}, "return_idx"),
        ({"return_idx": [2, 1]}, "return_idx"),
        ({"return_idx": []}, "return_idx"),
        ({"freeze_at": 4}, "freeze_at"),
        ({"pretrained": "nowhere.pdparams"}, "nowhere"),
    ],
)
def test_paddledet_bad_arguments(arguments, message):
    from ppcls_ext.hosts.paddledet import BACKBONES

    with pytest.raises(PpclsExtError, match=message):
        BACKBONES["MobileOne_S0"](**arguments)


@needs(PADDLEDET)
def test_paddledet_freezes():
    from ppcls_ext.hosts.paddledet import BACKBONES

    backbone = BACKBONES["RepVGG_A0"](freeze_at=0, return_idx=0)
    trainable = {name.split(".")[1] for name, p in backbone.named_parameters() if not p.stop_gradient}
    assert trainable == {"stage2", "stage3", "stage4"}
    backbone = BACKBONES["RepVGG_A0"](freeze_norm=True)
    norms = [layer for layer in backbone.sublayers() if isinstance(layer, paddle.nn.BatchNorm2D)]
    assert all(norm._use_global_stats and norm.weight.stop_gradient for norm in norms)


@needs(PADDLESEG)
def test_every_name_in_paddleseg():
    ppcls_ext.register_in_paddleseg()
    ppcls_ext.register_in_paddleseg()
    from paddleseg.cvlibs import manager

    for name in ppcls_ext.list_models():
        kind = manager.BACKBONES[name]
        if "_B" in name or "D2" in name:
            continue  # large
        stem = not name.startswith("FasterNet")
        backbone = kind(stem=stem)
        backbone.eval()
        with paddle.no_grad():
            maps = backbone(paddle.randn([1, 3, 64, 32]))
        assert backbone.feat_channels == [map_.shape[1] for map_ in maps]
        assert [64 // map_.shape[2] for map_ in maps] == [*([2] if stem else []), 4, 8, 16, 32]
    with pytest.raises(PpclsExtError, match="no map at stride 2"):
        manager.BACKBONES["FasterNet_T0"](stem=True)
    maps = manager.BACKBONES["FasterNet_T0"](in_channels=4)(paddle.randn([1, 4, 64, 32]))
    assert [map_.shape[1] for map_ in maps] == [40, 80, 160, 320]


@pytest.mark.parametrize("name", [pytest.param(name, marks=needs(host)) for name, (host, *_) in DETECTION.items()])
def test_detectors(name, folder):
    """Two steps, evaluation, drawing, export with post-processing and without, ONNX of both."""
    host, head, without = DETECTION[name]
    config, weights = ROOT / "configs" / "detection" / f"{name}.yml", f"weights=output/{name}/model_final.pdparams"
    text = script(host, "train.py", "-c", config, "-o", "epoch=1", folder=folder)
    assert (folder / "output" / name / "model_final.pdparams").exists(), text
    all_boxes = ["-c", config, "-o", weights, f"{head}.nms.score_threshold=0.0"]
    assert "Average Precision" in script(host, "eval.py", *all_boxes, folder=folder)
    picture = sorted((folder / "dataset/shapes/images/val").iterdir())[0]
    arguments = ["--infer_img", picture, "--output_dir", "drawn", "--draw_threshold", 0, *all_boxes]
    script(host, "infer.py", *arguments, folder=folder)
    drawn = Image.open(folder / "drawn" / picture.name).convert("RGB")
    assert (np.asarray(drawn).astype(int) - np.asarray(Image.open(picture).convert("RGB"))).any()
    # after two steps all boxes score the same, 1 at times, so that rounding alone would choose: none is kept;
    # benchmarks/downstream.py compares the lists of trained detectors
    kinds = {"whole": f"{head}.nms.score_threshold=1.0", "without": without}
    for kind, override in kinds.items():
        arguments = ["-c", config, "--output_dir", kind, "-o", weights, override]
        report = export(host, "export_model.py", *arguments, folder=folder, program=Path(kind, name))
        assert ("NonMaxSuppression" in report.nodes) == (kind == "whole")


@needs(PADDLEYOLO)
def test_paddleyolo_starts_from_the_weights_that_are_named(folder):
    """Its trainer draws all weights anew after the model is built."""
    net = ppcls_ext.build("MobileOne_S0", features_only=True)
    paddle.save(net.state_dict(), str(folder / "start.pdparams"))
    config = ROOT / "configs" / "detection" / "yolov7_mobileone_s0.yml"
    overrides = ["epoch=1", "MobileOne_S0.pretrained=start.pdparams", "LearningRate.base_lr=0.0", "save_dir=kept"]
    script(PADDLEYOLO, "train.py", "-c", config, "-o", *overrides, folder=folder)
    (file,) = (folder / "kept").rglob("model_final.pdparams")
    written, kept = paddle.load(str(file)), net.state_dict()
    kernels = [name for name in kept if name.endswith("conv.weight")]
    assert len(kernels) > 50
    assert all((written[f"backbone.net.{name}"].numpy() == kept[name].numpy()).all() for name in kernels)


@needs(PADDLESEG)
@pytest.mark.parametrize("name", SEGMENTATION)
def test_segmenters(name, folder):
    """Two steps, evaluation, drawing, export with indices and with logits, ONNX of both."""
    config = ["--config", ROOT / "configs" / "segmentation" / f"{name}.yml"]
    output = Path("output", name)
    arguments = [*config, "--iters", 2, "--do_eval", "--device", "cpu", "--save_dir", output]
    assert "mIoU" in script(PADDLESEG, "train.py", *arguments, folder=folder)
    weights = [*config, "--model_path", output / "best_model" / "model.pdparams"]
    assert "mIoU" in script(PADDLESEG, "val.py", *weights, "--device", "cpu", folder=folder)
    arguments = [*weights, "--image_path", "dataset/shapes/images/val", "--save_dir", "drawn", "--device", "cpu"]
    script(PADDLESEG, "predict.py", *arguments, folder=folder)
    assert list((folder / "drawn").rglob("*.png"))
    for kind in ("argmax", "none"):
        arguments = [*weights, "--save_dir", output / kind, "--output_op", kind, "--input_shape", 1, 3, 96, 96]
        report = export(PADDLESEG, "export.py", *arguments, folder=folder, program=output / kind)
        assert ("ArgMax" in report.nodes) == (kind == "argmax")


@needs(PADDLESEG)
def test_a_free_size_is_refused_with_advice(folder):
    config = ROOT / "configs" / "segmentation" / "pp_liteseg_mobileone_s0.yml"
    script(PADDLESEG, "export.py", "--config", config, "--save_dir", "free", folder=folder)
    with pytest.raises(PpclsExtError, match="--input_shape 1 3 H W"):
        program_to_onnx(folder / "free", folder / "free.onnx")
    assert not (folder / "free.onnx").exists()


@needs(PADDLEDET)
def test_fused_weights_are_refused_in_one_line(folder):
    paddle.save(ppcls_ext.build("MobileOne_S0", fused=True).state_dict(), str(folder / "fused.pdparams"))
    config = ROOT / "configs" / "detection" / "picodet_mobileone_s0.yml"
    override = "MobileOne_S0.pretrained=fused.pdparams"
    text = script(PADDLEDET, "train.py", "-c", config, "-o", override, folder=folder, fails=True)
    errors = re.findall(r"^error: .*", text, re.MULTILINE)
    assert len(errors) == 1
    assert "fused: True" in errors[0]
