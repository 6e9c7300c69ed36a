"""PaddleClas's own configurations with only Arch.name changed, and the small data set."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ppcls_ext.config.load import load_config
from tests.options.table import MODELS

CHECKOUT = os.environ.get("PADDLECLAS_HOME")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not CHECKOUT, reason="needs a PaddleClas checkout: set PADDLECLAS_HOME to it"),
]
CONFIGURATIONS = {
    "quick_start/ResNet50_vd.yaml": MODELS,
    "quick_start/MobileNetV3_large_x1_0.yaml": MODELS,
    "ImageNet/ResNet/ResNet50.yaml": MODELS,
    "ImageNet/RepVGG/RepVGG_A0.yaml": ["RepVGG_A0"],
    "ImageNet/FasterNet/FasterNet_T0.yaml": ["FasterNet_T0"],
    "quick_start/new_user/ShuffleNetV2_x0_25.yaml": ["MobileOne_S0"],
}
CASES = [(name, model) for name, models in CONFIGURATIONS.items() for model in models]


@pytest.mark.parametrize(("name", "model"), CASES)
def test_trains_and_evaluates(run, dataset, tmp_path, name, model):
    path = Path(CHECKOUT, "ppcls", "configs", name) if CHECKOUT else None
    if not path.is_file():
        pytest.skip(f"this PaddleClas has no {name}")
    config = load_config(path, [f"Arch.name={model}"])
    # the data, the machine and the patience of a test; all else is PaddleClas's
    config["Global"].update(epochs=1, device="cpu", print_batch_step=1, output_dir="output")
    config["Arch"].pop("pretrained", None)
    for loader, when in (("Train", "train"), ("Eval", "val")):
        section = config["DataLoader"][loader]
        section["dataset"].update(image_root=str(dataset), cls_label_path=str(dataset / f"{when}_list.txt"))
        section["sampler"]["batch_size"] = 12
        section["loader"].update(num_workers=0, use_shared_memory=False)
        for operator in section["dataset"]["transform_ops"]:
            for which in ("RandCropImage", "CropImage"):
                if which in operator:
                    operator[which]["size"] = 32
            if "ResizeImage" in operator:
                operator["ResizeImage"]["resize_short"] = 36
    run(config)
    config["Global"]["pretrained_model"] = str(tmp_path / "output" / model / "latest")
    run(config, "eval")
