"""What observers of a training get, and how a training ends early, on PaddleClas's real engine."""

from __future__ import annotations

import json
import logging

import pytest
from paddle.utils import unique_name

from ppcls_ext.errors import PpclsExtError
from ppcls_ext.training import observers
from ppcls_ext.training.checkpoints import Checkpoints
from ppcls_ext.training.evaluation import Evaluation
from ppcls_ext.training.observers import EarlyStopping, Epoch, RunRecord, TrainingEnds
from tests.helpers import build_engine
from tests.training.conftest import Noted

pytestmark = pytest.mark.usefixtures("registered")


@pytest.fixture
def make_engine(config, tmp_path):
    """Builds an engine for a training of FasterNet_T0, with fields of `Global`."""

    def make(**fields):
        config["Arch"]["name"] = "FasterNet_T0"
        config["Global"].update(output_dir=str(tmp_path), save_interval=0, **fields)
        return build_engine(config, "train")

    return make


@pytest.fixture
def train(make_engine):
    """Trains as in a process of its own: optimizers know parameters by names that a process counts."""

    def run(**fields):
        with unique_name.guard():
            make_engine(**fields).train()

    return run


def record(tmp_path) -> dict:
    return json.loads((tmp_path / "FasterNet_T0" / "run.json").read_text())


def test_observers_get_every_epoch(make_engine, tmp_path):
    engine = make_engine(epochs=2, eval_interval=2)
    saved = []
    noted = Noted(lambda epoch: saved.append((tmp_path / "FasterNet_T0/latest.json").exists()))
    engine.observers.append(noted)
    engine.train()
    first, second = noted.epochs
    assert (first.number, first.of, first.images, first.evaluation, first.is_best) == (1, 2, 24, None, False)
    assert {"loss", "top1"} <= set(first.train)
    assert first.seconds > 0
    assert second.is_best
    assert (second.evaluation.metric, second.evaluation.images) == ("top1", 20)
    assert second.evaluation.value == second.evaluation.metrics["top1"]
    assert second.evaluation.metrics["loss"] > 0
    assert [(batch.epoch, batch.done, batch.total) for batch in noted.batches] == [
        (epoch, done, 3) for epoch in (1, 2) for done in (1, 2, 3)
    ]
    assert saved == [True, True], "the checkpoint is on the disk"
    assert record(tmp_path)["best"]["epoch"] == 2


def test_an_observer_may_end_the_training(make_engine, tmp_path, capsys):
    engine = make_engine(epochs=9)

    def enough(epoch):
        raise TrainingEnds(f"enough after {epoch.number}")

    engine.observers.append(Noted(enough))
    engine.train()
    assert "enough after 1" in capsys.readouterr().out
    assert (record(tmp_path)["epoch"], record(tmp_path)["stopped"]) == (1, "enough after 1")


def test_it_stops_where_nothing_becomes_better_and_says_so_when_resumed(train, tmp_path, capsys):
    train(epochs=40, patience=2)
    facts = record(tmp_path)
    assert facts["epoch"] == facts["best"]["epoch"] + 2 < 40
    assert "top1 has not become better for 2 epochs" in facts["stopped"]
    capsys.readouterr()
    train(epochs=40, patience=2, checkpoints="latest")
    assert "is finished: stopped early" in capsys.readouterr().out
    train(epochs=40, patience=3, checkpoints="latest")
    assert record(tmp_path)["epoch"] > facts["epoch"]


def epoch(number: int, value: float | None, of: int = 99) -> Epoch:
    evaluation = None if value is None else Evaluation("top1", value, {}, 1)
    return Epoch(number, of, 1.0, 1, 0.1, {}, evaluation, is_best=False)


def test_a_new_training_does_not_count_from_an_old_record(make_engine, tmp_path, monkeypatch):
    """Every process has to end at the same epoch, and only the first begins the record anew."""
    folder = tmp_path / "FasterNet_T0"
    folder.mkdir()
    (folder / "run.json").write_text(json.dumps({"best": {"epoch": 30, "value": 0.9}}))
    monkeypatch.setattr(observers.dist, "get_rank", lambda: 1)
    engine = make_engine(patience=3)
    checkpoints = Checkpoints(engine)
    stopping = RunRecord(engine, checkpoints).early_stopping()
    checkpoints.is_best(1, 0.5)
    stopping.epoch(epoch(1, 0.5))
    with pytest.raises(TrainingEnds, match=r"\(best: epoch 1; patience 3\)"):
        stopping.epoch(epoch(4, 0.5))


def test_patience_counts_epochs_since_the_best(make_engine):
    checkpoints = Checkpoints(make_engine())
    stopping = EarlyStopping(3, checkpoints)
    for number, value in ((2, 0.4), (3, 0.3), (4, 0.5), (6, 0.5), (7, None)):
        if value is not None:
            checkpoints.is_best(number, value)
        stopping.epoch(epoch(number, value))
    with pytest.raises(TrainingEnds, match=r"for 4 epochs \(best: epoch 4; patience 3\)"):
        stopping.epoch(epoch(8, 0.5))
    stopping.epoch(epoch(99, 0.5))  # the last epoch ends by itself


@pytest.mark.parametrize("patience", [0, -1, "3", True, 1.5])
def test_bad_patience(make_engine, patience):
    with pytest.raises(Exception, match=r"Global\.patience \(--patience\) is .*: expected a whole number of epochs"):
        make_engine(patience=patience)


def test_patience_needs_evaluations(make_engine):
    with pytest.raises(Exception, match="needs evaluations"):
        make_engine(patience=3, eval_during_train=False)


def test_changed_lists_are_refused_unless_they_are_named(train, config, dataset, tmp_path, caplog):
    listed = tmp_path / "list.txt"
    listed.write_text((dataset / "train_list.txt").read_text())
    config["DataLoader"]["Train"]["dataset"]["cls_label_path"] = str(listed)
    train(epochs=1)
    listed.write_text("".join(listed.read_text().splitlines(keepends=True)[:8]))
    with pytest.raises(PpclsExtError, match=r"list\.txt was changed after the training \(24 → 8 lines\): put it back"):
        train(epochs=2, checkpoints="latest")
    config["DataLoader"]["Train"]["dataset"]["cls_label_path"] = str(listed.rename(tmp_path / "shorter.txt"))
    with caplog.at_level(logging.WARNING):
        train(epochs=2, checkpoints="latest")
    assert "shorter.txt" in caplog.text
