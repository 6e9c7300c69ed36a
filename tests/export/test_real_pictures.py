"""Apple's MobileOne_S0 in int8 on real ImageNet pictures: plain quantization costs it ten points."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest

import ppcls_ext
from ppcls_ext.commands.calibration import calibration_pictures
from ppcls_ext.data.image_input import network_input
from ppcls_ext.data.image_rule import Preprocessing
from ppcls_ext.export import int8
from ppcls_ext.export.pipeline import export_onnx
from ppcls_ext.predict.classifier import Classifier
from ppcls_ext.predict.metadata import Metadata

COUNT = 128  # pictures, half of which calibrate


@pytest.mark.slow
def test_accuracy_is_kept(shared, tmp_path):
    rule = Preprocessing()
    folder = shared / "imagenet_samples"
    model = ppcls_ext.build("MobileOne_S0", fused=True)
    ppcls_ext.load_weights(model, shared / "weights" / "mobileone_s0.pth.tar")
    metadata = Metadata("MobileOne_S0", rule).to_properties()
    export_onnx(model, tmp_path / "fp32.onnx", opset=20, metadata=metadata)
    fp32 = onnx.load(tmp_path / "fp32.onnx")
    pictures = calibration_pictures(str(folder / "calibration_list.txt"), {}, COUNT, rule)
    quantized, report = int8.quantize(fp32, pictures, allow=True, quiet=True)
    onnx.save(quantized, tmp_path / "int8.onnx")
    assert report.size < 0.30
    assert report.operators["QLinearConv"] == 43
    assert report.operators["QGemm"] == 1

    lines = (folder / "val_list.txt").read_text().split("\n")
    rows = [line.split() for line in lines if line.strip()]
    images = np.stack([network_input(folder / name, rule) for name, _ in rows])
    theirs, ours = (Classifier(tmp_path / f"{name}.onnx").probabilities(images) for name in ("fp32", "int8"))
    # 64 + 20 pictures: one is more than a point, so the divergence is the sharper measure; plain quantization has 0.3
    assert np.mean(np.sum(theirs * np.log((theirs + 1e-9) / (ours + 1e-9)), axis=1)) < 0.04
    same = report.agreement * report.checked + (theirs.argmax(axis=1) == ours.argmax(axis=1)).sum()
    assert same / (report.checked + len(rows)) > 0.9
    said = {entry.key: entry.value for entry in quantized.metadata_props}["quantization"]
    assert json.loads(said)["pictures"] == COUNT // 2
