"""A training on the tiny data set of tests/tiny_dataset.py, observed from inside."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from ppcls_ext.training.observers import Batch, Epoch, Observer
from tests.helpers import build_engine


@pytest.fixture
def engine(config, tmp_path, monkeypatch, registered):
    """Builds a training engine from the fixture `config` as it is then, with the given Recipe, in `tmp_path`."""
    monkeypatch.chdir(tmp_path)
    config["Arch"]["name"] = "FasterNet_T0"  # the quickest
    config["Global"]["overwrite"] = True  # some train twice

    def build(**recipe):

        config["Recipe"] = recipe
        return build_engine(config, "train")

    return build


@pytest.fixture
def fresh_process():
    """A context in which Paddle counts parameters from 0, as in a process of its own.

    Optimizers save their state under these names.
    """
    return paddle.utils.unique_name.guard


@pytest.fixture
def updates():
    """Makes an engine record, at each update of the weights, the gradients and the state before and after."""

    def record(engine) -> list[dict]:
        records = []
        for name in ("step", "minimize"):
            setattr(engine.optimizer[-1], name, _recording(getattr(engine.optimizer[-1], name), engine, records))
        return records

    return record


def _recording(update, engine, records):
    def recording(*args, **kwargs):
        record = {
            "gradients": {
                name: np.zeros(p.shape, "float32") if p.grad is None else p.grad.numpy()
                for name, p in engine.model.named_parameters()
            },
            "before": arrays(engine.model.state_dict()),
            "lr": engine.optimizer[-1].get_lr(),
        }
        result = update(*args, **kwargs)
        records.append({**record, "after": arrays(engine.model.state_dict())})
        return result

    return recording


def arrays(state: dict) -> dict[str, np.ndarray]:
    return {name: tensor.numpy().copy() for name, tensor in state.items()}


class Noted(Observer):
    """Notes what it is told.

    Args:
        act: is called with each epoch.
    """

    def __init__(self, act=lambda epoch: None) -> None:
        self.act = act
        self.epochs: list[Epoch] = []
        self.batches: list[Batch] = []

    def batch(self, batch: Batch) -> None:
        self.batches.append(batch)

    def epoch(self, epoch: Epoch) -> None:
        self.epochs.append(epoch)
        self.act(epoch)
