"""Trainings of two steps with one option of PaddleClas's, in this process."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import numpy as np
import paddle
import pytest

from ppcls_ext.hosts.paddleclas.locate import activate
from tests.helpers import build_engine
from tests.options.table import NEWER_SCHEDULES


@pytest.fixture
def config(base_config) -> dict:
    """The tiny configuration with batches of 12: two steps an epoch; lists and sections are nobody else's."""
    config = copy.deepcopy(base_config)
    config["Metric"] = {when: [{"TopkAcc": {"topk": [1, 2]}}] for when in ("Train", "Eval")}
    for loader in config["DataLoader"].values():
        loader["sampler"]["batch_size"] = 12
    return config


@pytest.fixture
def run(registered, tmp_path, monkeypatch) -> Callable:
    """Runs the engine in one mode, in `tmp_path`, and returns it."""

    monkeypatch.chdir(tmp_path)

    def run(config: dict, mode: str = "train"):
        # optimizers and checkpoints know parameters by names that a process counts
        with paddle.utils.unique_name.guard():
            engine = build_engine(config, mode)
            before = {name: value.numpy() for name, value in engine.model.state_dict().items()}
            getattr(engine, mode)()
        if mode == "train":
            require_trained(engine, before)
        return engine

    return run


def require_trained(engine, before: dict[str, np.ndarray]) -> None:
    """Weights have moved, all are finite, and a checkpoint is there."""
    after = {name: value.numpy() for name, value in engine.model.state_dict().items()}
    assert all(np.isfinite(value).all() for value in after.values())
    moved = [name for name in before if not np.array_equal(before[name], after[name])]
    assert len(moved) > len(before) / 2
    assert Path(engine.folder, "latest.pdparams").is_file()


@pytest.fixture(scope="session")
def is_old() -> bool:
    """Whether PaddleClas is 2.4, which lacks some of the options."""
    return activate(need_engine=True).version.startswith("2.4")


@pytest.fixture(scope="session")
def schedules() -> set[str]:
    """Those of the newer schedules that PaddleClas has: 2.4 and 2.5 have none."""
    activate(need_engine=True)
    from ppcls.optimizer import learning_rate

    return {name for name in NEWER_SCHEDULES if hasattr(learning_rate, name)}


@pytest.fixture(autouse=True)
def own_folder(tmp_path_factory, monkeypatch):
    """A test writes where no other does: `output`, the configurations' folder, is relative and locked in training."""
    monkeypatch.chdir(tmp_path_factory.mktemp("run"))
