"""What a training shows on the terminal; whole screens are in tests/commands/test_own_images.py."""

from __future__ import annotations

import time
from types import SimpleNamespace

import pytest

from ppcls_ext import progress
from ppcls_ext.training import terminal
from ppcls_ext.training.evaluation import Evaluation
from ppcls_ext.training.observers import Batch, Epoch, Observer
from ppcls_ext.training.terminal import TrainingOnTerminal, count_of


@pytest.fixture
def lines(monkeypatch, capsys):
    """The line of a step, where there is no terminal."""
    monkeypatch.setattr(terminal, "EVERY", 0.0)

    def show(**fields) -> str:
        batch = Batch(**{"epoch": 1, "of": 2, "done": 8, "total": 10, "loss": 1.5, "images_per_second": 20, **fields})
        TrainingOnTerminal(None).batch(batch)
        return capsys.readouterr().out.strip()

    return show


def test_waiting_for_images_is_said_where_it_is_much(lines):
    line = "epoch 1/2, batch 8/10: loss 1.5000, 20 images/s, 15 s left"
    assert lines(seconds=10.0, waiting=1.9) == line
    assert lines(seconds=10.0, waiting=2.1) == f"{line}, 21% of the time waiting for images"
    assert "waiting" not in lines(seconds=10.0, waiting=9.0, done=2), "the loader's processes start"


def test_numbers_in_words():
    assert [count_of(n, "epoch") for n in (0, 1, 2)] == ["0 epochs", "1 epoch", "2 epochs"]
    assert count_of(2, "batch", "batches") == "2 batches"


def test_a_long_evaluation_shows_how_far_it_is(engine, config, monkeypatch, capsys):
    config["Global"]["epochs"] = 1
    config["DataLoader"]["Eval"]["sampler"]["batch_size"] = 4
    built = engine()
    monkeypatch.setattr(progress, "FIRST", 0.0)
    monkeypatch.setattr(progress, "EVERY", 0.0)
    images = len(built.eval_dataloader.dataset)
    built.eval()
    assert "evaluating" not in capsys.readouterr().err, "PaddleClas's own lines are shown"
    built.is_shown = True
    built.eval()
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("evaluating: ")]
    assert said[0].startswith(f"evaluating: 4 of {images} images")
    assert len(said) == (images - 1) // 4


def test_the_loop_counts_the_time_until_images_are_read(engine, config, monkeypatch):
    waited = 0.1  # seconds

    class Seen(Observer):
        def __init__(self) -> None:
            self.steps: list[Batch] = []

        def batch(self, batch: Batch) -> None:
            self.steps.append(batch)

    config["Global"]["epochs"] = 1
    built, seen = engine(), Seen()
    built.observers.append(seen)
    loader = built.train_dataloader
    host = type(loader).__iter__

    def slow(self):
        for batch in host(self):
            time.sleep(waited)
            yield batch

    monkeypatch.setattr(type(loader), "__iter__", slow)
    built.train()
    assert all(step.waiting >= waited * step.done for step in seen.steps if step.epoch == 1)
    assert all(step.waiting <= step.seconds for step in seen.steps)


STEP = Batch(epoch=1, of=3, done=1, total=100, loss=1.5, images_per_second=20, seconds=5.0)


def test_after_ten_steps_the_whole_time_is_expected(capsys):
    """The first step, which builds what the others use, does not count."""
    shown = TrainingOnTerminal(None)
    for done in range(1, 21):
        shown.batch(STEP._replace(done=done, seconds=5.0 + 2.0 * (done - 1)))
        said = capsys.readouterr().out
        assert (said == "expected   10 min for 3 epochs, evaluations aside\n") == (done == 10)


def test_a_quiet_training_shows_its_result_alone(capsys):
    shown = TrainingOnTerminal(None, quiet=True)
    epoch = Epoch(1, 3, 9.0, 24, 0.1, {"loss": 0.5}, Evaluation("top1", 0.5, {"top1": 0.5}, 20), True, 0.5)
    shown.begin()
    for done in range(1, 100):
        shown.batch(STEP._replace(done=done, seconds=100.0 * done))
    for number in (1, 2, 3):
        shown.epoch(epoch._replace(number=number, is_best=number == 1))
    assert capsys.readouterr() == ("", "")
    shown.end()
    assert capsys.readouterr().out == "epoch 1/3 is the best: top1 0.5000 over 20 images\n"
    shown = TrainingOnTerminal(None, quiet=True)
    shown.epoch(epoch._replace(evaluation=None, is_best=False, best=None))
    shown.end()
    assert capsys.readouterr().out == "epoch 1/3: loss 0.5000\n"


def test_the_learning_rate_on_request(capsys, monkeypatch):
    monkeypatch.setattr(terminal, "EVERY", 0.0)
    engine = SimpleNamespace(lr_sch=[SimpleNamespace(get_lr=lambda: 0.0123456)])
    shown = TrainingOnTerminal(engine, show_lr=True)
    shown.batch(STEP)
    assert ", lr 0.0123\n" in capsys.readouterr().out
    shown.epoch(Epoch(1, 3, 9.0, 24, 0.1, {"loss": 0.5}, None, False))
    assert capsys.readouterr().out == "epoch 1/3: loss 0.5000, 3 images/s, lr 0.1, 18 s left\n"
