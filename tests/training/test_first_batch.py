"""What cannot work is said before the first epoch, and what fails later loses none, on PaddleClas's real engine."""

from __future__ import annotations

import copy
import multiprocessing
import random
from pathlib import Path

import numpy as np
import paddle
import pytest
from paddle.utils import unique_name

from ppcls_ext.errors import PpclsExtError
from ppcls_ext.hosts.paddleclas.locate import activate
from ppcls_ext.training.first_batch import short, try_parts
from ppcls_ext.weights.checkpoint_sets import read_set
from tests.helpers import build_engine
from tests.training.conftest import Noted, arrays

pytestmark = pytest.mark.usefixtures("registered")


@pytest.fixture
def fails(config, tmp_path, monkeypatch):
    """Trains, and expects a message before any step of the training; returns the message."""
    monkeypatch.chdir(tmp_path)
    config["Arch"].setdefault("name", "FasterNet_T0")
    if config["Arch"]["name"] == "MobileOne_S0":
        config["Arch"]["name"] = "FasterNet_T0"
    config["Global"]["output_dir"] = str(tmp_path)

    def run() -> str:
        engine = build_engine(config)
        noted = Noted()
        engine.observers.append(noted)
        with pytest.raises(PpclsExtError) as caught:
            engine.train()
        assert not noted.batches
        assert not list(tmp_path.rglob("latest*"))
        assert "\n" not in str(caught.value)
        return str(caught.value)

    return run


@pytest.mark.parametrize(
    ("metric", "arguments", "said"),
    [
        ("GoogLeNetTopkAcc", {"topk": [1]}, "Metric.Eval.1.GoogLeNetTopkAcc does not work on 8×2 with labels 8×1: "),
        (
            "DistillationTopkAcc",
            {"model_key": "Student", "feature_key": "x", "topk": [1]},
            "Metric.Eval.1.Distillation",
        ),
    ],
)
def test_a_metric_that_cannot_work(fails, config, metric, arguments, said):
    config["Metric"]["Eval"] = [{"TopkAcc": {"topk": [1]}}, {metric: arguments}]
    assert fails().startswith(said)


@pytest.mark.parametrize(
    "loss",
    [
        {"TripletLoss": {}},
        {"DistillationCELoss": {"model_name_pairs": [["Student", "Teacher"]]}},
    ],
)
def test_a_loss_that_needs_other_outputs(fails, config, loss):
    ((name, fields),) = loss.items()
    config["Loss"]["Eval"] = [{"CELoss": {"weight": 1.0}}, {name: {**fields, "weight": 1.0}}]
    assert fails().startswith(f"Loss.Eval.1.{name} does not work on 8×2 with labels 8×1: ")


def test_losses_whose_sum_cannot_work(fails, config):
    """Of a float32 and a float64."""
    if not activate(need_engine=True).version.startswith("2.4"):
        pytest.skip("in this PaddleClas both are float32")
    other = {"PairwiseCosface": {"margin": 0.1, "gamma": 1, "weight": 1.0}}
    config["Loss"]["Eval"] = [{"CELoss": {"weight": 1.0}}, other]
    assert fails().startswith("Loss.Eval does not work on 8×2 with labels 8×1: ")


def test_a_loss_of_several_labels(config):
    config["Loss"]["Eval"] = [{"MultiLabelLoss": {"weight": 1.0}}]
    with pytest.raises(PpclsExtError, match=r"Loss\.Eval\.0 is MultiLabelLoss, which takes several classes an image"):
        build_engine(config)


def test_a_loss_of_the_training_is_named_too(fails, config):
    config["Loss"]["Train"] = [{"TripletLoss": {"weight": 1.0}}]
    assert fails().startswith("Loss.Train does not work on 8×2 with labels 8×1: ")


def test_more_than_the_classes_of_a_model_that_does_not_tell_them(fails, config):
    config["Arch"] = {"name": "AlexNet"}
    for loader in config["DataLoader"].values():
        loader["dataset"]["transform_ops"].insert(1, {"ResizeImage": {"size": [224, 224]}})
    config["Metric"]["Eval"] = [{"TopkAcc": {"topk": [2000]}}]
    assert fails().startswith("Metric.Eval: f1_macro is computed of the network's 8×1000 outputs, and not top2000")


def test_images_of_different_sizes(fails, config, dataset, tmp_path):
    from PIL import Image

    Image.new("RGB", (40, 50)).save(tmp_path / "other.png")
    (tmp_path / "list.txt").write_text(f"{dataset}/png/00.png 0\n{tmp_path}/other.png 1\n")
    config["DataLoader"]["Eval"]["dataset"].update(image_root="/", cls_label_path=str(tmp_path / "list.txt"))
    assert fails().startswith("DataLoader.Eval does not work: ")


def test_a_transform_that_fails_on_a_later_image_of_the_batch(fails, config, dataset, tmp_path):
    (tmp_path / "broken.png").write_bytes((dataset / "png" / "00.png").read_bytes()[:200])
    (tmp_path / "list.txt").write_text(f"{dataset}/png/00.png 0\n{tmp_path}/broken.png 1\n")
    config["DataLoader"]["Eval"]["dataset"].update(image_root="/", cls_label_path=str(tmp_path / "list.txt"))
    assert "broken.png" in fails()


def test_evaluating_says_so_too(config, tmp_path):
    config["Global"]["output_dir"] = str(tmp_path)
    config["Arch"]["name"] = "FasterNet_T0"
    config["Loss"]["Eval"] = [{"TripletLoss": {"weight": 1.0}}]
    with pytest.raises(PpclsExtError, match=r"^Loss\.Eval\.0\.TripletLoss does not work on 8×2 with labels 8×1"):
        build_engine(config, "eval").eval()


def distillation(config: dict, classes: int) -> None:
    config["Arch"] = {
        "name": "DistillationModel",
        "class_num": 2,
        "pretrained_list": None,
        "freeze_params_list": [True, False],
        "infer_model_name": "Student",
        "models": [
            {"Teacher": {"name": "FasterNet_T0", "class_num": 2, "pretrained": False}},
            {"Student": {"name": "FasterNet_T0", "class_num": classes, "pretrained": False}},
        ],
    }
    config["Loss"]["Train"] = [
        {"DistillationGTCELoss": {"weight": 1.0, "model_names": ["Student"]}},
        {"DistillationDMLLoss": {"weight": 1.0, "model_name_pairs": [["Student", "Teacher"]]}},
    ]
    accuracy = {"DistillationTopkAcc": {"model_key": "Student", "topk": [1, 2]}}
    config["Metric"] = {"Train": [accuracy], "Eval": [{"TopkAcc": {"topk": [1, 2]}}]}


def test_a_student_of_other_classes_than_its_teacher(fails, config):
    distillation(config, 3)
    message = fails()
    assert message.startswith("Loss.Train.1.DistillationDMLLoss compares networks with different numbers of classes: ")
    assert "Student (FasterNet_T0) tells 3 and Teacher (FasterNet_T0) tells 2" in message


@pytest.fixture
def retrieval(config):
    config["Global"].update(eval_mode="retrieval", retrieval_feature_from="features")
    config["Arch"] = {
        "name": "RecModel",
        "infer_output_key": "features",
        "infer_add_softmax": False,
        "Backbone": {"name": "FasterNet_T0", "class_num": 7},
        "BackboneStopLayer": {"name": "flatten"},
        "Neck": {"name": "FC", "embedding_size": 1280, "class_num": 16},
        "Head": {"name": "ArcMargin", "embedding_size": 16, "class_num": 2, "margin": 0.15, "scale": 30},
    }
    config["DataLoader"]["Eval"] = dict.fromkeys(("Query", "Gallery"), config["DataLoader"]["Eval"])
    config["Metric"] = {"Eval": [{"Recallk": {"topk": [5, 1]}}, {"mAP": {}}]}


def test_a_retrieval_is_tried_and_its_first_metric_decides(retrieval, config, tmp_path):
    config["Global"]["output_dir"] = str(tmp_path)
    noted, engine = Noted(), build_engine(config)
    engine.observers.append(noted)
    engine.train()
    evaluation = noted.epochs[0].evaluation
    assert (evaluation.metric, evaluation.value) == ("recall5", evaluation.metrics["recall5"])
    assert list(evaluation.metrics) == ["recall5", "recall1", "mAP"]
    log = (tmp_path / "RecModel" / "train.log").read_text()
    assert log.count("recall5: ") == 1, "nothing is logged of the trial"
    assert f"mAP: {evaluation.metrics['mAP']:.5f}" in log


@pytest.mark.parametrize(
    ("section", "value", "said"),
    [
        ("Metric", [{"Recallk": {"topk": [21]}}], r"Metric.Eval.0.Recallk does not work: IndexError"),
        ("Metric", [{"Recallk": {"topk": [1]}}, {"mAP": {"descending": "x"}}], r"Metric.Eval.1.mAP does not work"),
        ("Loss", None, "Loss.Eval is missing: without one PaddleClas evaluates no retrieval"),
    ],
)
def test_a_retrieval_that_cannot_work(retrieval, fails, config, section, value, said):
    config[section]["Eval"] = value
    assert fails().startswith(said)


def test_a_retrieval_without_features(retrieval, fails, config):
    config["Arch"] = {"name": "FasterNet_T0", "class_num": 2}
    assert fails().startswith("Global.eval_mode retrieval does not work: ")


def test_nothing_of_the_trial_is_left(config, tmp_path):
    config["Global"]["output_dir"] = str(tmp_path)
    config["Arch"]["name"] = "FasterNet_T0"
    config["DataLoader"]["Eval"]["sampler"]["shuffle"] = True
    config["DataLoader"]["Eval"]["loader"]["num_workers"] = 2
    engine, children = build_engine(config), set(multiprocessing.active_children())
    next(iter(engine.model.children())).eval()  # as frozen layers are
    modes = [layer.training for layer in engine.model.sublayers()]
    state, sampler = arrays(engine.model.state_dict()), vars(engine.eval_dataloader.batch_sampler).copy()
    name, metrics = unique_name.generate("x"), copy.deepcopy(engine.eval_metric_func.metric_func_list[0].avg_meters)
    for seed in (random.seed, np.random.seed, paddle.seed):
        seed(7)
    expected = random.random(), np.random.rand(), paddle.rand([1]).item()
    for seed in (random.seed, np.random.seed, paddle.seed):
        seed(7)
    try_parts(engine)
    assert (random.random(), np.random.rand(), paddle.rand([1]).item()) == expected
    assert [layer.training for layer in engine.model.sublayers()] == modes
    assert not all(modes)
    assert all(np.array_equal(value, state[name]) for name, value in arrays(engine.model.state_dict()).items())
    assert vars(engine.eval_dataloader.batch_sampler) == sampler
    assert {key: vars(meter) for key, meter in engine.eval_metric_func.metric_func_list[0].avg_meters.items()} == {
        key: vars(meter) for key, meter in metrics.items()
    }
    assert int(unique_name.generate("x").rpartition("_")[2]) == int(name.rpartition("_")[2]) + 1
    assert set(multiprocessing.active_children()) <= children


@pytest.fixture
def two_epochs(config, tmp_path, monkeypatch, dataset):
    """Trains two epochs on images of its own, between which a function is called."""
    monkeypatch.chdir(tmp_path)
    config["Arch"]["name"] = "FasterNet_T0"
    config["Global"].update(epochs=2, save_interval=0)
    last = tmp_path / "last.png"
    last.write_bytes((dataset / "png" / "19.png").read_bytes())
    lines = (dataset / "val_list.txt").read_text().splitlines()[:19]
    listed = "".join(f"{dataset}/{line}\n" for line in lines) + f"{last} 1\n"
    (tmp_path / "list.txt").write_text(listed)
    config["DataLoader"]["Eval"]["dataset"].update(image_root="/", cls_label_path=str(tmp_path / "list.txt"))

    def run(between=lambda epoch: None, **fields):
        config["Global"].update(fields)
        with unique_name.guard():
            engine = build_engine(config)
            engine.observers.append(Noted(between))
            engine.train()
        return Path("output/FasterNet_T0")

    return run, last


def test_an_evaluation_that_fails_later_loses_no_epoch(two_epochs):
    run, last = two_epochs
    good = last.read_bytes()
    with pytest.raises(PpclsExtError) as caught:
        run(lambda epoch: last.write_bytes(good[:100]), epochs=3)
    folder = Path("output/FasterNet_T0")
    start = "the evaluation after epoch 2 failed, and that epoch is saved as latest: "
    assert str(caught.value).startswith(start)
    assert "last.png" in str(caught.value)
    assert "--resume" in str(caught.value)
    assert read_set(folder / "latest").state["epoch"] == 2
    assert read_set(folder / "latest").state["best_epoch"] == 1
    last.write_bytes(good)
    run(checkpoints="latest")
    assert read_set(folder / "latest").state["epoch"] == 3
    assert read_set(folder / "latest").state["evaluations"] == 2


def test_an_error_of_any_kind_loses_none_either(two_epochs, monkeypatch):
    from ppcls.metric import TopkAcc

    run, _ = two_epochs
    forward, calls = TopkAcc.forward, []

    def fail_in_the_second_evaluation(self, x, label):
        calls.append(self)
        if len(calls) > 1 + 3 + 3 + 3:  # the trial's, one epoch's, its evaluation's, the second epoch's
            raise ZeroDivisionError("once")
        return forward(self, x, label)

    monkeypatch.setattr(TopkAcc, "forward", fail_in_the_second_evaluation)
    with pytest.raises(PpclsExtError, match=r"epoch 2 failed, .*: ZeroDivisionError: once; then evaluate it: .*latest"):
        run()
    assert read_set(Path("output/FasterNet_T0/latest")).state["epoch"] == 2


def test_outputs_that_are_no_numbers_do_not_replace_the_epoch_before(two_epochs, monkeypatch):
    from ppcls_ext.training import loop
    from ppcls_ext.training.evaluation import NotFiniteError

    run, _ = two_epochs
    evaluate = loop.evaluate_epoch

    def diverge(engine, number):
        if number == 2:
            raise NotFiniteError("the network's outputs hold NaN")
        return evaluate(engine, number)

    monkeypatch.setattr(loop, "evaluate_epoch", diverge)
    with pytest.raises(NotFiniteError):
        run()
    assert read_set(Path("output/FasterNet_T0/latest")).state["epoch"] == 1


def test_paddles_explanations_are_cut():
    with pytest.raises(ValueError, match="Broadcast") as caught:
        paddle.ones([2, 3]) + paddle.ones([2, 4])
    text = short(caught.value)
    assert text.startswith("(InvalidArgument) Broadcast dimension mismatch.")
    assert len(text) <= 301
    assert "\n" not in text
    assert short(ValueError("")) == "no message"
