"""PaddleClas's own acceptance test, test_tipc's lite_train_lite_infer: its commands, on a small data set and a CPU."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.options.table import MODELS

ROOT = Path(__file__).resolve().parents[2]
CHECKOUT = os.environ.get("PADDLECLAS_HOME")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not CHECKOUT, reason="needs a PaddleClas checkout: set PADDLECLAS_HOME to it"),
]
PARAMETERS = "test_tipc/configs/ResNet/ResNet50_train_infer_python.txt"


@pytest.mark.parametrize("model", MODELS)
def test_train_export_predict(model, dataset, tmp_path):
    text = Path(CHECKOUT, PARAMETERS).read_text()
    command = {name: re.search(rf"^{name}:(\S+\.py .*)$", text, re.M)[1].split() for name in STEPS}
    data = ["-o", f"DataLoader.Train.dataset.image_root={dataset}"]
    data += ["-o", f"DataLoader.Train.dataset.cls_label_path={dataset / 'train_list.txt'}"]
    data += ["-o", "DataLoader.Train.dataset.transform_ops.1.RandCropImage.size=32"]
    chosen = [
        "-o",
        f"Arch.name={model}",
        "-o",
        "Arch.pretrained=False",
        "-o",
        "Global.device=cpu",
        "-o",
        f"Global.output_dir={tmp_path}",
    ]
    lite = ["-o", "Global.auto_cast=null", "-o", "Global.epochs=1", "-o", "DataLoader.Train.sampler.batch_size=8"]
    run("-m", "ppcls_ext", *command["norm_train"], *chosen, *lite, *data, "-o", "Global.pretrained_model=null")
    weights = tmp_path / "latest"
    place = ["-o", f"Global.pretrained_model={weights}", "-o", f"Global.save_inference_dir={tmp_path / 'inference'}"]
    run("-m", "ppcls_ext", *command["norm_export"], *chosen, *place, FLAGS_enable_pir_api="0")
    options = ["use_gpu=False", "enable_mkldnn=False", "cpu_num_threads=1", "batch_size=1", "use_tensorrt=False"]
    options += ["use_fp16=False", f"inference_model_dir={tmp_path / 'inference'}", "benchmark=False"]
    options += [f"infer_imgs={dataset / 'png' / '00.png'}"]
    said = run(*command["inference"], *(part for option in options for part in ("-o", f"Global.{option}")), at="deploy")
    assert re.search(r"00\.png:\s+class id\(s\): \[\d+(, \d+){4}\], score\(s\): ", said)


STEPS = ("norm_train", "norm_export", "inference")


def run(*command: str, at: str = "", **env: str) -> str:
    done = subprocess.run(
        [sys.executable, *command],
        cwd=Path(CHECKOUT, at),
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1", **env},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout + done.stderr
