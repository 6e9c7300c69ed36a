"""The files of configs/: written from the table, complete, and accepted by PaddleClas's engine."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from ppcls_ext import list_models
from ppcls_ext.config.downstream import config_files
from ppcls_ext.config.shipped import RECIPES, SHIPPED
from tests.helpers import build_engine

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = ROOT / "configs"
BIG = ("B1", "B2", "B3", "D2", "A2", "_L", "_M")
NAMES = [pytest.param(name, marks=pytest.mark.slow) if any(part in name for part in BIG) else name for name in RECIPES]


def test_files_follow_the_table():
    found = {str(path.relative_to(CONFIGS)) for path in CONFIGS.rglob("*.y*ml")}
    files = config_files()
    assert found == set(files)
    for name, text in files.items():
        assert (CONFIGS / name).read_text(encoding="utf-8") == text, name


def test_every_model_has_both():
    for model in list_models():
        assert RECIPES[f"{model}.yml"].model == model
        family = model.split("_")[0]
        assert RECIPES[f"ImageNet/{family}/{model}.yaml"].model == model


@pytest.mark.parametrize("name", config_files())
def test_header_names_its_own_command(name):
    header = [line for line in (CONFIGS / name).read_text(encoding="utf-8").splitlines() if line.startswith("#")]
    if name in RECIPES:
        (command,) = [line for line in header if "ppcls-ext) train" in line or "ppcls-ext train" in line]
        assert SHIPPED[command.split("-c ")[1].split()[0]] == name
    else:  # of PaddleDetection and PaddleSeg, whose own scripts run
        assert any(f"configs/{name}" in line and "tools/train.py" in line for line in header)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Four small pictures of four classes, as training and evaluation data."""
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for index in range(4):
        Image.fromarray(rng.integers(0, 255, (40, 40, 3), dtype=np.uint8)).save(folder / f"{index}.png")
    for name in ("train_list.txt", "val_list.txt"):
        (folder / name).write_text("".join(f"{index}.png {index}\n" for index in range(4)))
    (folder / "labels.txt").write_text("".join(f"{index} class {index}\n" for index in range(1000)))
    return folder


@pytest.mark.parametrize("name", NAMES)
def test_engine_builds_everything(name, pictures, tmp_path):
    from ppcls_ext.config.load import load_config
    from ppcls_ext.training.start import set_up

    overrides = [f"Global.output_dir={tmp_path}", "Global.device=cpu"]
    for loader, file_list in (("Train", "train_list.txt"), ("Eval", "val_list.txt")):
        overrides += [
            f"DataLoader.{loader}.dataset.image_root={pictures}",
            f"DataLoader.{loader}.dataset.cls_label_path={pictures / file_list}",
            f"DataLoader.{loader}.sampler.batch_size=2",
            f"DataLoader.{loader}.loader.num_workers=0",
        ]
    set_up()
    engine = build_engine(load_config(CONFIGS / name, overrides))
    images, labels = next(iter(engine.train_dataloader))[:2]
    stages = RECIPES[name].sections.get("Recipe", {}).get("progressive")
    size = stages[0]["size"] if stages else RECIPES[name].train_size or RECIPES[name].task.size
    assert images.shape == [2, 3, size, size]
    assert labels.shape[0] == 2
    assert type(engine.model).__name__ == RECIPES[name].model.split("_")[0]
    assert engine.optimizer[0]._parameter_list
    assert engine.train_loss_func.loss_func
    assert engine.eval_metric_func is not None
    assert len(engine.eval_dataloader) == 2


def test_yaml_is_what_paddleclas_parses():
    """Numbers are numbers: YAML reads 1e-08 as text, PaddleClas then fails in the optimizer."""

    def check(node, path):
        if isinstance(node, dict):
            for key, value in node.items():
                check(value, f"{path}.{key}")
        elif isinstance(node, list):
            for index, value in enumerate(node):
                check(value, f"{path}.{index}")
        elif isinstance(node, str):
            try:
                float(node)
            except ValueError:
                return
            pytest.fail(f"{path} is the text {node!r}")

    for name in RECIPES:
        check(yaml.safe_load((CONFIGS / name).read_text(encoding="utf-8")), name)


def test_check_command():
    done = subprocess.run([sys.executable, str(ROOT / "tools" / "make_configs.py"), "--check"], capture_output=True)
    assert done.returncode == 0
