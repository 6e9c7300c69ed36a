"""Which epoch is kept as the best, on PaddleClas's real engine."""

from __future__ import annotations

import csv
import json
import logging
from pathlib import Path

import pytest
from paddle.utils import unique_name

from ppcls_ext.config.folder import find_run
from ppcls_ext.hosts.paddleclas.locate import activate
from ppcls_ext.training import loop
from ppcls_ext.training.evaluation import Evaluation
from ppcls_ext.weights.checkpoint_sets import read_set
from tests.helpers import build_engine

pytestmark = pytest.mark.usefixtures("registered")


@pytest.fixture
def train(config, tmp_path, monkeypatch):
    """Trains FasterNet_T0 in `tmp_path`, as in a process of its own; returns its folder."""
    monkeypatch.chdir(tmp_path)
    config["Arch"]["name"] = "FasterNet_T0"
    config["Global"].update(epochs=3, save_interval=0)
    config["Optimizer"]["lr"]["learning_rate"] = 0.003

    def run(**fields) -> Path:
        config["Global"].update(fields)
        with unique_name.guard():
            build_engine(config).train()
        return Path("output", config["Arch"]["name"])

    return run


@pytest.fixture
def several_labels(config, dataset, tmp_path):
    """The images with three labels each, evaluated by their Hamming distance, of which less is better."""
    lines = (dataset / "train_list.txt").read_text().splitlines()
    labels = [f"{path}\t1,{label},{1 - int(label)}\n" for path, label in map(str.split, lines)]
    (tmp_path / "labels.txt").write_text("".join(labels))
    config["Arch"]["class_num"] = 3
    config["Infer"]["PostProcess"]["class_id_map_file"] = None
    config["Global"]["use_multilabel"] = True
    for loader in config["DataLoader"].values():
        loader["dataset"].update(name="MultiLabelDataset", cls_label_path=str(tmp_path / "labels.txt"))
    config["Loss"] = {when: [{"MultiLabelLoss": {"weight": 1.0}}] for when in ("Train", "Eval")}
    config["Metric"] = {"Eval": [{"HammingDistance": None}, {"AccuracyScore": None}]}


def values(folder: Path, column: str) -> list[float]:
    with open(folder / "metrics.csv", newline="") as stream:
        return [float(row[column]) for row in csv.DictReader(stream)]


def best(folder: Path) -> dict:
    return json.loads((folder / "run.json").read_text())["best"]


def logged(folder: Path) -> str:
    return (folder / "train.log").read_text(encoding="utf-8")


def come_to(monkeypatch, metric: str, *found: float) -> None:
    """Makes the evaluations of a training come to given values, by epoch."""
    monkeypatch.setattr(
        loop,
        "evaluate_epoch",
        lambda engine, number: Evaluation(metric, found[number - 1], {metric: found[number - 1]}, 1),
    )


def test_the_smallest_hamming_distance_is_kept(train, several_labels):
    folder = train(epochs=4, best_by="HammingDistance")
    distances = values(folder, "eval_HammingDistance")
    epoch = distances.index(min(distances)) + 1
    assert epoch > 1, "it learns"
    assert best(folder) | {"pictures": 0} == {
        "epoch": epoch,
        "metric": "HammingDistance",
        "mode": "min",
        "value": pytest.approx(min(distances), abs=1e-6),
        "pictures": 0,
    }
    state = read_set(folder / "best_model").state
    assert (state["epoch"], state["best_by"], state["best_epoch"]) == (epoch, "HammingDistance min", epoch)
    assert values(folder, "best_HammingDistance") == [min(distances[: n + 1]) for n in range(4)]
    assert "(HammingDistance, the smaller the better)" in logged(folder)


def test_another_metric_may_decide(train, several_labels, config):
    config["Metric"]["Eval"].reverse()
    folder = train(best_by="HammingDistance", epochs=4)
    assert best(folder)["metric"] == "HammingDistance"
    assert best(folder)["value"] == pytest.approx(min(values(folder, "eval_HammingDistance")), abs=1e-6)


def test_macro_f1_decides(train):
    folder = train(epochs=3, best_by="f1_macro")
    found = values(folder, "eval_f1_macro")
    assert len(set(found)) > 1, "it learns"
    assert best(folder)["metric"] == "f1_macro"
    assert best(folder)["value"] == pytest.approx(max(found), abs=1e-6)
    assert best(folder)["epoch"] == found.index(max(found)) + 1, "a tie keeps the earlier epoch"
    assert read_set(folder / "best_model").state["best_by"] == "f1_macro max"
    assert "(f1_macro, the greater the better)" in logged(folder)
    train(epochs=4, checkpoints="latest")
    found = values(folder, "eval_f1_macro")
    assert len(found) == 4
    assert values(folder, "best_f1_macro") == [max(found[: n + 1]) for n in range(4)]


def test_top5_of_five_classes_says_nothing(train, config):
    """It is 1 in every epoch, so the first one would be kept."""
    config["Arch"]["class_num"] = 5
    config["Infer"]["PostProcess"]["class_id_map_file"] = None
    config["Metric"]["Eval"] = [{"TopkAcc": {"topk": [5, 1]}}]
    config["Optimizer"]["lr"]["learning_rate"] = 0.002
    folder = train(epochs=4, report=True)
    top1 = values(folder, "eval_top1")
    assert top1[0] < max(top1), "it learns"
    assert (best(folder)["metric"], best(folder)["epoch"]) == ("top1", top1.index(max(top1)) + 1)
    page = (folder / "report" / "report.html").read_text(encoding="utf-8")
    assert f"top1, the greater the better: {max(top1):.4f} in epoch {best(folder)['epoch']}" in page


@pytest.mark.parametrize("recipe", [None, {"ema": {"decay": 0.5}}])
def test_the_smallest_loss_is_kept_with_an_average_too(train, config, recipe):
    config["Recipe"] = recipe
    folder = train(best_by="loss", epochs=2)
    losses = values(folder, "eval_loss")
    assert losses[1] < losses[0], "it learns"
    assert (best(folder)["metric"], best(folder)["epoch"]) == ("loss", 2)
    assert read_set(folder / "best_model").state["epoch"] == 2


def test_the_direction_may_be_given(train):
    folder = train(best_by="loss max", epochs=2)
    assert best(folder)["epoch"] == 1


def test_a_metric_that_stays_the_same_is_said(train, config, capsys):
    config["Metric"]["Eval"] = [{"TopkAcc": {"topk": [2]}}]
    folder = train(epochs=2)
    said = "top2 was 1 in all 2 evaluations, so best_model is of epoch 1, the first of them: choose another metric"
    assert said in capsys.readouterr().out
    assert read_set(folder / "best_model").state["epoch"] == 1
    train(epochs=3, checkpoints="latest")
    assert "top2 was 1 in all 3 evaluations" in capsys.readouterr().out


@pytest.mark.parametrize(("found", "epoch"), [((0.5, 0.7, 0.7), 2), ((0.0, 0.0, 0.1), 3), ((-0.5, -0.2, -0.3), 2)])
def test_a_tie_keeps_the_earlier_epoch(train, monkeypatch, capsys, found, epoch):
    come_to(monkeypatch, "top1", *found)
    folder = train()
    assert (best(folder)["epoch"], read_set(folder / "best_model").state["epoch"]) == (epoch, epoch)
    printed = capsys.readouterr().out
    assert "evaluations" not in printed
    assert f"best weights: {folder / 'best_model.pdparams'}" in printed


def test_patience_counts_in_the_metrics_direction(train, monkeypatch):
    come_to(monkeypatch, "loss", 0.9, 0.8, 0.7, 0.75, 0.72, 0.1)
    folder = train(best_by="loss", patience=2, epochs=6)
    facts = json.loads((folder / "run.json").read_text())
    assert facts["epoch"] == 5
    assert facts["stopped"] == "stopped early: loss has not become better for 2 epochs (best: epoch 3; patience 2)"


def test_the_best_is_resumed_with_its_direction(train, monkeypatch):
    come_to(monkeypatch, "loss", 0.4, 0.2, 0.3, 0.1)
    folder = train(best_by="loss", epochs=2)
    train(epochs=3, checkpoints="latest")
    assert read_set(folder / "best_model").state["epoch"] == 2
    assert read_set(folder / "latest").state["best_metric"] == 0.2
    assert "best loss min 0.20000" in logged(folder)
    train(epochs=4, checkpoints="latest")
    assert (read_set(folder / "best_model").state["epoch"], best(folder)["epoch"]) == (4, 4)


@pytest.mark.parametrize(("before", "after"), [(None, "loss"), ("loss", None), ("top1 max", "top1 min")])
def test_another_metric_starts_anew_when_resumed(train, caplog, before, after):
    folder = train(best_by=before, epochs=2)
    with caplog.at_level(logging.WARNING):
        train(best_by=after, epochs=3, checkpoints="latest", patience=1)
    assert f"has chosen its best model by {before or 'top1 max'}" in caplog.text
    assert (read_set(folder / "best_model").state["epoch"], best(folder)["epoch"]) == (3, 3)


def test_no_evaluation_leaves_the_best_as_it_was(train, capsys):
    folder = train(epochs=1)
    before = read_set(folder / "latest").state
    train(epochs=2, checkpoints="latest", eval_during_train=False)
    after = read_set(folder / "latest").state
    assert [after[name] for name in ("best_metric", "best_by", "best_epoch")] == [before["best_metric"], "top1 max", 1]
    assert f"best weights: {folder / 'best_model.pdparams'}" in capsys.readouterr().out.splitlines()[-1]


@pytest.mark.parametrize("late", [{"eval_during_train": False}, {"start_eval_epoch": 9}])
def test_the_best_of_an_overwritten_training_does_not_count(train, capsys, late):
    folder = train(epochs=1)
    (folder / "best_model.onnx").write_text("the user's own")
    capsys.readouterr()
    train(overwrite=True, **late)
    assert [path.name for path in folder.glob("best_model*")] == ["best_model.onnx"]
    assert find_run(folder).weights == folder / "latest.pdparams"
    assert f"latest weights: {folder / 'latest.pdparams'}" in capsys.readouterr().out


def test_a_training_without_evaluations_has_no_best(train, capsys):
    folder = train(epochs=1, eval_during_train=False)
    assert read_set(folder / "latest").state["best_metric"] is None
    assert capsys.readouterr().out.splitlines()[-1] == f"latest weights: {folder / 'latest.pdparams'}"
    train(epochs=2, checkpoints="latest", eval_during_train=True)
    assert "none evaluated yet" in logged(folder)
    assert "-1.0" not in logged(folder)
    assert best(folder)["epoch"] == 2


def test_the_better_one_of_paddleclas_average_and_model_counts(train, config, monkeypatch):
    """With a section `EMA` both are evaluated; by the loss, the smaller one is the better one."""
    if activate(need_engine=True).version.startswith("2.4"):
        pytest.skip("this PaddleClas has no EMA")
    from ppcls_ext.training.engine import Engine

    found = []
    evaluate = Engine.eval
    monkeypatch.setattr(Engine, "eval", lambda *args: found.append(evaluate(*args)) or found[-1])
    config["EMA"] = {"decay": 0.5}
    folder = train(best_by="loss", epochs=2)
    assert len(found) == 4
    epochs = [min(found[:2]), min(found[2:])]
    assert best(folder)["value"] == min(epochs)
    assert best(folder)["epoch"] == epochs.index(min(epochs)) + 1
    assert values(folder, "eval_loss") == pytest.approx(epochs, abs=1e-4)


@pytest.mark.parametrize(("by", "rates"), [("top1", 1), ("loss", 2)])
def test_a_schedule_follows_the_metric_that_decides(train, config, monkeypatch, by, rates):
    """top1 becomes better in every epoch and the loss worse."""
    from ppcls.optimizer import learning_rate

    if not hasattr(learning_rate, "ReduceOnPlateau"):
        pytest.skip("this PaddleClas has no ReduceOnPlateau")
    from ppcls_ext.training import engine as module

    def evaluate(engine, number):
        value = number / 10
        return [Evaluation(by, value, {by: value}, 1)]

    monkeypatch.setattr(module, "evaluate", evaluate)
    lr = {"name": "ReduceOnPlateau", "learning_rate": 0.01, "by_epoch": True, "patience": 0}
    config["Optimizer"]["lr"] = lr
    folder = train(best_by=by, epochs=3)
    assert len(set(values(folder, "learning_rate"))) == rates + (by == "loss")
