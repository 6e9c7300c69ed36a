"""`--budget`: a training with as many epochs as fit is one with so many epochs, to the bit."""

from __future__ import annotations

import re
from pathlib import Path

import paddle
import pytest
import yaml
from paddle.utils import unique_name

import ppcls_ext
from ppcls_ext.config.settings import RunSettings
from ppcls_ext.errors import PpclsExtError
from ppcls_ext.training.trial import Trial


@pytest.fixture
def train(tiny_settings):
    """Trains as in a process of its own."""
    Path("tiny.yml").write_text(yaml.safe_dump(tiny_settings), encoding="utf-8")

    def run(*overrides: str, **options):
        with unique_name.guard():
            return ppcls_ext.train("tiny.yml", ["Global.seed=3", *overrides], **options)

    return run


def weights_of(run) -> dict:
    return paddle.load(str(run.folder / "latest.pdparams"))


def test_where_all_epochs_fit_the_training_is_the_usual_one(train, capsys):
    plain, fitted = train(epochs=2), train(epochs=2, budget="1h")
    first, second = weights_of(plain), weights_of(fitted)
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert (value.numpy() == second[name].numpy()).all(), name
    said = capsys.readouterr().out
    assert re.search(r"budget +60 min: measuring how long an epoch takes\nbudget +all 2 epochs fit; one takes ", said)


def test_as_many_epochs_as_fit(train, monkeypatch, capsys):
    monkeypatch.setattr(Trial, "step_seconds", lambda trial: 400.0)  # a slow machine
    run = train(epochs=9, budget="2h")
    epochs = len((run.folder / "metrics.csv").read_text().splitlines()) - 1
    assert run.settings.config["Global"]["epochs"] == epochs
    assert epochs == 5, "nine tenths of 7200 s, by 3 steps of 400 s"
    assert "budget" not in run.settings.config["Global"]
    assert re.search(
        rf"budget +{epochs} of 9 epochs fit; one takes \d+ min, its evaluation \d+ s\n", capsys.readouterr().out
    )
    with pytest.raises(PpclsExtError, match="is resumed, whose epochs are known: leave it out"):
        train(resume=run.folder, budget="2h")


def test_statistics_that_are_computed_anew_take_their_time(tiny_settings, tmp_path, monkeypatch):
    tiny_settings["Global"]["eval_during_train"] = True
    seconds = {}
    for name, recipe in (("running", {}), ("precise", {"precise_statistics": {"images": 10**6}})):
        tiny_settings["Recipe"] = recipe
        with unique_name.guard():
            trial = Trial(RunSettings(tiny_settings), str(tmp_path), 1)
            trial.run()
        ticks = iter(range(0, 10**9, 1000))  # each look at the clock takes 1000 s
        monkeypatch.setattr("time.perf_counter", lambda ticks=ticks: float(next(ticks)))
        seconds[name] = trial.evaluation_seconds()
        monkeypatch.undo()
        batches = len(trial.engine.train_dataloader)
    assert seconds["precise"] - seconds["running"] == batches * 2000, "read and compute"


def test_no_room_for_an_epoch(train, monkeypatch, tmp_path):
    expected = r"has no room for an epoch: one takes \d+ min.*; expected \d+m or more"
    with monkeypatch.context() as slow:
        slow.setattr(Trial, "step_seconds", lambda trial: 400.0)
        with pytest.raises(PpclsExtError, match=expected):
            train(budget="90s")
    assert not (tmp_path / "output" / "FasterNet_T0").exists()
    assert train(epochs=1, budget="1h").folder.name == "FasterNet_T0", "the folder is not held any more"


def test_an_epoch_of_one_step(train):
    run = train("DataLoader.Train.sampler.batch_size=24", epochs=1, budget="1h")
    assert (run.folder / "latest.pdparams").is_file()


def test_what_is_wrong_with_the_training_is_said_as_ever(train):
    with pytest.raises(PpclsExtError, match="makes no batch"):
        train("DataLoader.Train.sampler.batch_size=100", "DataLoader.Train.sampler.drop_last=True", budget="1h")
    with pytest.raises(PpclsExtError, match=r"budget \(--budget\) is 'soon': expected a time such as 30m"):
        train(budget="soon")


def test_without_evaluations(train, capsys):
    train("Global.eval_during_train=False", epochs=1, budget="1h")
    assert "evaluation" not in capsys.readouterr().out.split("fit; one takes")[1].splitlines()[0]
