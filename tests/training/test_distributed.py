"""Two processes, launched as PaddleClas's documentation says: one training."""

from __future__ import annotations

import copy
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import paddle
import pytest
import yaml

from tests.helpers import ROOT
from tests.tiny_dataset import as_packed

pytestmark = pytest.mark.slow
RANKS = 2


@pytest.fixture(scope="module")
def launched(base_config, dataset, tmp_path_factory):
    """Two epochs of MobileOne_S0 with a recipe on two ranks: the folder, and what each rank ended with."""
    folder = tmp_path_factory.mktemp("launched")
    # 19 pictures: the ranks' shares differ, and the last one is evaluated twice
    entries = (dataset / "val_list.txt").read_text().splitlines(keepends=True)
    (folder / "val_list.txt").write_text("".join(entries[:19]))
    config = {
        **copy.deepcopy(base_config),
        "Recipe": {"ema": {"decay": 0.9}, "weight_decay": {"start": 1e-3, "end": 1e-4}},
    }
    config["Global"]["epochs"] = 2
    config["DataLoader"]["Eval"]["dataset"]["cls_label_path"] = str(folder / "val_list.txt")
    config["Optimizer"]["lr"]["learning_rate"] = 1e-3
    (folder / "config.yml").write_text(yaml.safe_dump(config))
    return folder, *launch(folder)


def launch(folder):
    """Trains config.yml on two ranks in a folder: what each rank ended with, and their logs."""
    command = [sys.executable, "-m", "paddle.distributed.launch", f"--nproc_per_node={RANKS}", "--log_dir=logs"]
    script = Path(__file__).with_name("launched.py")
    done = subprocess.run(
        [*command, str(script), "config.yml", "."], cwd=folder, capture_output=True, text=True, timeout=300
    )
    logs = "\n".join(path.read_text() for path in sorted((folder / "logs").glob("workerlog.*")))
    assert done.returncode == 0, done.stdout + logs
    return [np.load(folder / f"rank{rank}.npz") for rank in range(RANKS)], logs


CHOICE = """
import paddle.distributed as dist
from ppcls_ext.config.numbered import with_own_folder
from ppcls_ext.config.settings import open_config
from ppcls_ext.training.start import set_up
set_up()
own = with_own_folder(open_config("FasterNet_T0").changed("Global", output_dir="output", device="cpu"))
open(f"rank{dist.get_rank()}.txt", "w").write(str(own.folder))
dist.barrier()
"""


def test_ranks_take_one_numbered_folder(tmp_path):
    for name in ("FasterNet_T0", "FasterNet_T0-2"):
        (tmp_path / "output" / name).mkdir(parents=True)
        (tmp_path / "output" / name / "latest.pdparams").write_bytes(b"")
    (tmp_path / "choice.py").write_text(CHOICE)
    command = [sys.executable, "-m", "paddle.distributed.launch", f"--nproc_per_node={RANKS}", "--log_dir=logs"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [*command, "choice.py"], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    chosen = {(tmp_path / f"rank{rank}.txt").read_text() for rank in range(RANKS)}
    assert chosen == {"output/FasterNet_T0-3"}


def test_ranks_end_with_the_same(launched):
    _, (first, second), _ = launched
    assert set(first.files) == set(second.files)
    states = [name for name in first.files if name != "written"]
    assert any(name.startswith("average ") and name.endswith("._variance") for name in states)
    different = [name for name in states if not np.array_equal(first[name], second[name])]
    assert not different
    assert any(not np.array_equal(first[f"trained {name[8:]}"], first[name]) for name in states if name[0] == "a")


def test_two_processes_share_shards(launched, dataset, tmp_path):
    """Each takes its part of the images, and both end with the bits of two processes that read files."""
    folder, (expected, _), _ = launched
    config = as_packed(yaml.safe_load((folder / "config.yml").read_text()), dataset, tmp_path / "packed")
    (tmp_path / "config.yml").write_text(yaml.safe_dump(config))
    for end in launch(tmp_path)[0]:
        assert all(np.array_equal(end[name], expected[name]) for name in expected.files if name != "written")


def test_only_rank_0_writes(launched):
    folder, (first, second), _ = launched
    assert second["written"].size == 0
    names = {Path(path).name for path in first["written"]}
    assert {"best_model.pdparams", "latest.ema.pdparams", "epoch_2.pdopt"} <= names
    left = {path.name for path in (folder / "output" / "MobileOne_S0").rglob("*") if path.is_file()}
    assert "train.log" in left
    assert left <= names | {"train.log"}, "everything was noticed"


def test_best_model_evaluates_to_what_training_said(launched, run_tool):
    folder, _, logs = launched
    weights = "Global.pretrained_model=output/MobileOne_S0/best_model"
    result = run_tool("eval", "-v", "-c", "config.yml", "-o", weights, cwd=folder)
    assert result.returncode == 0, result.stderr
    epoch = paddle.load(str(folder / "output" / "MobileOne_S0" / "best_model.pdstates"))["epoch"]
    alone, best = averages(result.stdout)[0], averages(logs)[epoch]
    assert alone["top1"] == best["top1"]
    assert float(alone["CELoss"]) == pytest.approx(float(best["CELoss"]), abs=1e-4)
    assert "over 19 images" in logs
    assert "over 19 images" in result.stdout


def averages(log: str) -> dict[int, dict[str, str]]:
    """The averages of each evaluation in a log, by epoch, as texts."""
    lines = re.findall(r"\[Eval\]\[Epoch (\d+)\]\[Avg\](.*)", log)
    return {int(epoch): dict(re.findall(r"(\w+): ([\d.]+)", line)) for epoch, line in lines}
