"""Options that cannot work are refused in one line, before anything is built."""

from __future__ import annotations

import importlib.util
import logging

import pytest

from ppcls_ext.errors import PpclsExtError
from tests.helpers import prepared
from tests.options.table import MODELS, NEWER_SCHEDULES, optimizer, schedule, setting

pytestmark = pytest.mark.usefixtures("registered")


@pytest.mark.parametrize("model", MODELS)
def test_adam_with_layerwise_decay(config, is_old, model):
    config["Arch"]["name"] = model
    optimizer("AdamWDL", weight_decay=0.05, layerwise_decay=0.75)(config)
    message = (
        "AdamWDL, which PaddleClas does not have" if is_old else "numbered blocks of a transformer.*expected AdamW"
    )
    with pytest.raises(PpclsExtError, match=message):
        prepared(config, "train")


@pytest.mark.parametrize("name", NEWER_SCHEDULES)
def test_schedules_that_older_versions_lack(config, schedules, name):
    NEWER_SCHEDULES[name](config)
    if name in schedules:
        prepared(config, "train")
        return
    with pytest.raises(PpclsExtError, match=f"Optimizer.lr.name is {name}, which PaddleClas does not have"):
        prepared(config, "train")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (schedule("Step", learning_rate=0.1, step_size="often", gamma=0.1), "Optimizer.lr is refused by PaddleCl"),
        (schedule("MultiStepDecay", learning_rate=0.1, milestones=3), "Optimizer.lr is refused by PaddleClas"),
        (setting("Optimizer.lr", 0.1), r"Optimizer.lr is 0.1: expected a section with a learning_rate"),
        (setting("Slim.prune", {"name": "fpgm", "pruned_ratio": 0.3}), "paddleslim|belong together in blocks"),
        (setting("DataLoader.Train.dataset.name", "MultiScaleDataset"), "none of RandCropImage.*add RandCropImage"),
    ],
)
def test_refused(config, change, said):
    change(config)
    with pytest.raises(PpclsExtError, match=said):
        prepared(config, "train")


@pytest.mark.parametrize("mode", ["train", "eval", "infer", "export"])
def test_quantisation_without_paddleslim(config, mode):
    if importlib.util.find_spec("paddleslim"):
        pytest.skip("paddleslim is installed")
    config["Slim"] = {"quant": {"name": "pact"}}
    with pytest.raises(
        PpclsExtError, match=r"Slim.quant needs the package paddleslim: pip install --no-deps paddleslim"
    ):
        prepared(config, mode)


def test_synchronised_statistics_of_several_processes_on_cpus(config, monkeypatch, caplog):
    config["Arch"]["use_sync_bn"] = True
    with caplog.at_level(logging.INFO, "ppcls_ext"):
        assert prepared(config, "train")["Arch"]["use_sync_bn"] is False
    assert "one process on cpu" in caplog.text
    config["Arch"]["use_sync_bn"] = True
    monkeypatch.setattr("paddle.distributed.get_world_size", lambda: 2)
    assert prepared(config, "eval")["Arch"]["use_sync_bn"] is False, "evaluation needs no batch statistics"
    config["Arch"]["use_sync_bn"] = True
    with pytest.raises(PpclsExtError, match="synchronises no batch normalisation on cpu"):
        prepared(config, "train")


def test_inference_yml_needs_class_names(config):
    config["Global"]["export_for_fd"] = True
    config["Infer"]["PostProcess"]["class_id_map_file"] = None
    with pytest.raises(PpclsExtError, match=r"Global.export_for_fd writes inference.yml.*class_id_map_file is missing"):
        prepared(config, "export")
