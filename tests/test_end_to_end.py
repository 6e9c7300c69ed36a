"""The whole path through the real tools, as a user types it: one family each, on a tiny slice of the digits."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def tool(name, *arguments, folder, expect=0):
    """Runs tools/NAME from another working directory."""
    command = [sys.executable, str(ROOT / "tools" / name), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, env={**os.environ, "COLUMNS": "200"})
    assert done.returncode == expect, f"{name}: {done.stdout[-2000:]}\n{done.stderr[-2000:]}"
    return done


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("work")
    tool("make_sample_dataset.py", "--limit", 60, "--size", 32, folder=folder)
    return folder


@pytest.mark.parametrize(
    "model",
    [
        "MobileOne_S0",
        pytest.param("RepVGG_A0", marks=pytest.mark.slow),
        pytest.param("FasterNet_T0", marks=pytest.mark.slow),
    ],
)
def test_every_tool(model, folder):
    config = ["-c", ROOT / "configs" / "digits" / "MobileOne_S0.yml", "-o", f"Arch.name={model}", "Global.seed=3"]
    config += [
        "Global.epochs=2",
        "Global.eval_interval=1",
        "Optimizer.lr.warmup_epoch=0",
        "DataLoader.Train.sampler.batch_size=8",
    ]
    config += ["DataLoader.Train.dataset.transform_ops.1.RandCropImage.size=32", "Global.image_shape=[3,32,32]"]
    config += ["DataLoader.Eval.dataset.transform_ops.1.ResizeImage.resize_short=32"]
    config += ["DataLoader.Eval.dataset.transform_ops.2.CropImage.size=32"]
    config += ["Infer.transforms.1.ResizeImage.resize_short=32", "Infer.transforms.2.CropImage.size=32"]
    trained = [*config, f"Global.pretrained_model=output/{model}/best_model"]
    picture = sorted((folder / "dataset" / "digits" / "images").iterdir())[0]

    tool("train.py", *config, folder=folder)
    evaluated = tool("eval.py", *trained, folder=folder).stdout
    assert re.search(r"top1 [\d.]+, top5 [\d.]+ over \d+ images", evaluated)

    inferred = tool("infer.py", *trained, f"Infer.infer_imgs={picture}", folder=folder).stdout
    scores = re.search(r"'class_ids': \[([\d, ]+)\], 'scores': \[([\d., e-]+)\]", inferred)
    ids, probabilities = ([float(v) for v in scores.group(i).split(",")] for i in (1, 2))
    assert sum(probabilities) <= 1.0001

    tool("export_model.py", *trained, f"Global.save_inference_dir={model}", folder=folder)
    assert {"inference.json", "inference.pdiparams"} <= {path.name for path in (folder / model).iterdir()}

    exported = tool("export_onnx.py", *trained, "--output", f"{model}.onnx", folder=folder).stdout
    assert "BatchNormalization" not in exported
    done = tool("infer_onnx.py", "--model", f"{model}.onnx", "--json", picture, folder=folder)
    (result,) = json.loads(done.stdout)
    assert result["class_ids"] == ids
    assert result["scores"] == pytest.approx(probabilities, abs=2e-4)
    assert result["label_names"] == [str(int(i)) for i in ids]
