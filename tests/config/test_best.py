"""Which metric decides, in which direction, and what is said of metrics that cannot be computed."""

from __future__ import annotations

import inspect

import paddle
import pytest

from ppcls_ext.config.best import METRICS, BestBy, prepare_metrics
from ppcls_ext.data.lists import MULTI_LABEL, SINGLE_LABEL
from ppcls_ext.errors import PpclsExtError
from ppcls_ext.training.evaluation import values_of
from tests.helpers import prepared


def best_by(config: dict, task: str = SINGLE_LABEL) -> BestBy | None:
    return prepare_metrics(config, "train", task)


def test_every_metric_of_paddleclas_is_in_the_table(registered):
    from ppcls import metric

    classes = {name: value for name, value in vars(metric).items() if inspect.isclass(value)}
    there = {name for name, value in classes.items() if issubclass(value, paddle.nn.Layer)}
    assert there - {"AvgMetrics", "CombinedMetrics"} <= set(METRICS)


def test_macro_f1_decides_only_where_it_is_asked_for(config):
    assert best_by(config) == BestBy("top1", "max")
    config["Global"]["best_by"] = "f1_macro"
    assert best_by(config) == BestBy("f1_macro", "max")
    config["Global"]["best_by"] = "f1"
    with pytest.raises(PpclsExtError, match=r"expected one of top1 \(max\), .*f1_macro \(max\)"):
        best_by(config)


@pytest.mark.parametrize("name", METRICS)
def test_the_names_are_those_that_the_metric_gives(registered, name):
    from ppcls import metric

    if not hasattr(metric, name):
        pytest.skip(f"this PaddleClas has no {name}")
    if name == "Precisionk":
        pytest.skip("it divides floats by whole numbers, which Paddle 3 refuses")
    kind = METRICS[name]
    arguments = {"model_key": "Student"} if name == "DistillationTopkAcc" else {}
    built = metric.build_metrics([{name: arguments}])
    outputs = paddle.to_tensor([[1.0, 0, 0, 0, 0, 0], [0, 1.0, 0, 0, 0, 0]])
    labels = paddle.to_tensor([[0], [1]])
    if kind.of == "pairs":
        found = built(paddle.eye(6), *(paddle.zeros([6, 1], "int64") for _ in "qg"), None)
    else:
        if kind.of == MULTI_LABEL:
            labels = paddle.to_tensor([[1, 0, 0, 0, 0, 0], [0, 1, 0, 0, 0, 0]])
            labels = labels.unsqueeze(1) if name in ("ATTRMetric", "MultilabelMeanAccuracy") else labels
        built([outputs] if name == "GoogLeNetTopkAcc" else outputs, labels)
        if name != "ATTRMetric":
            assert built.avg_info
        found = values_of(built.metric_func_list[0])
    assert list(found) == [output.format(k) for output in kind.outputs for k in ((1, 5) if "{}" in output else (0,))]


@pytest.mark.parametrize(
    ("topk", "classes", "name"),
    [
        ([5, 1], 5, "top1"),
        ([1, 5], 1000, "top1"),
        ([5, 3], 5, "top3"),
        ([5], 5, "top5"),
        (5, 1000, "top5"),
        ([10, 2], 5, "top2"),
        ("[5, 1]", 5, "top1"),  # PaddleClas reads it so
    ],
)
def test_the_smallest_k_below_the_number_of_classes_decides(config, topk, classes, name):
    config["Arch"]["class_num"] = classes
    config["Metric"]["Eval"] = [{"TopkAcc": {"topk": topk}}]
    assert best_by(config) == BestBy(name, "max")


def test_other_metrics(config):
    config["Metric"]["Eval"] = [{"HammingDistance": None}, {"AccuracyScore": None}]
    config["Metric"]["Train"] = None
    assert best_by(config, MULTI_LABEL) == BestBy("mAP", "max"), "this project's own stand before PaddleClas's"
    config["Global"]["best_by"] = "HammingDistance"
    assert best_by(config, MULTI_LABEL) == BestBy("HammingDistance", "min")
    config["Global"]["best_by"] = None
    config["Global"]["eval_mode"] = "retrieval"
    config["Metric"]["Eval"] = [{"Recallk": {"topk": [5, 1]}}, {"mAP": None}]
    assert best_by(config) == BestBy("recall5", "max")
    config["Global"]["eval_mode"] = "adaface"
    assert best_by(config) == BestBy("all_test_acc", "max")
    config["Global"]["eval_during_train"] = False
    assert best_by(config) is None


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("loss", ("loss", "min")),
        ("loss max", ("loss", "max")),
        ("top2", ("top2", "max")),
        (" top1  min ", ("top1", "min")),
    ],
)
def test_best_by(config, given, expected):
    config["Global"]["best_by"] = given
    config["Arch"]["class_num"] = 3
    assert best_by(config) == expected


@pytest.mark.parametrize("given", ["top5", "accuracy", "top1 most", "max", "", 1, True, ["top1"], {"top1": "max"}])
def test_best_by_that_is_none(config, registered, tmp_path, given):
    config["Global"].update(best_by=given, output_dir=str(tmp_path))
    with pytest.raises(PpclsExtError, match=r"Global\.best_by is .*: expected one of top1 \(max\), top2 \(max\), loss"):
        prepared(config, "train")


def test_best_by_needs_what_it_names(config):
    config["Global"]["best_by"] = "loss"
    config["Loss"]["Eval"] = None
    with pytest.raises(
        PpclsExtError,
        match=r"Global\.best_by is 'loss': expected one of top1 \(max\), top2 \(max\), f1_macro \(max\), opt",
    ):
        best_by(config)
    config["Global"]["eval_during_train"] = False
    with pytest.raises(PpclsExtError, match=r"Global\.best_by needs evaluations"):
        best_by(config)


@pytest.mark.parametrize("metric", ["Recallk", "mAP", "mINP", "Precisionk", "AccuracyScore", "HammingDistance"])
@pytest.mark.parametrize("when", ["Eval", "Train"])
def test_metrics_of_another_task(config, registered, tmp_path, metric, when):
    config["Global"]["output_dir"] = str(tmp_path)
    config["Metric"][when] = [{"TopkAcc": {"topk": [1]}}, {metric: None}]
    with pytest.raises(PpclsExtError, match=rf"Metric\.{when}\.1\.{metric} is for images .*: take TopkAcc"):
        prepared(config, "train")


@pytest.mark.parametrize("topk", [[10], [3, 4]])
def test_no_k_up_to_the_number_of_classes(config, topk):
    config["Metric"]["Eval"] = [{"TopkAcc": {"topk": topk}}]
    with pytest.raises(PpclsExtError, match=r"Metric\.Eval\.0\.TopkAcc\.topk is .*, and there are 2 classes"):
        best_by(config)


@pytest.mark.parametrize("topk", [[], [0], [1.5], [True], ["1"], [1, 1], None, "one", -1, {"k": 1}])
@pytest.mark.parametrize("when", ["Eval", "Train"])
def test_topk(config, when, topk):
    config["Metric"][when] = [{"TopkAcc": {"topk": topk}}]
    if (when, topk) == ("Train", [1, 1]):  # as a file of PaddleClas's has it
        best_by(config)
        return
    with pytest.raises(PpclsExtError, match=rf"Metric\.{when}\.0\.TopkAcc\.topk is .*: expected whole numbers from 1"):
        best_by(config)


@pytest.mark.parametrize("section", ["Metric.Eval", "Loss.Eval", "Loss.Train"])
@pytest.mark.parametrize("given", [[], {"TopkAcc": None}, "TopkAcc", ["TopkAcc"], [{}], [{"a": None, "b": None}]])
def test_sections_that_are_no_lists(config, section, given):
    name, when = section.split(".")
    config[name] = {**config[name], when: given}
    with pytest.raises(PpclsExtError, match=rf"{section}(\.0)? is .*: expected .*`Name: arguments`"):
        best_by(config)


def schedule(config: dict, **fields) -> dict:
    config["Optimizer"]["lr"] = {"name": "ReduceOnPlateau", "learning_rate": 0.1, "by_epoch": True, **fields}
    return config["Optimizer"]["lr"]


def test_a_schedule_that_waits_for_the_metric_follows_it(config):
    rate = schedule(config)
    best_by(config)
    assert rate["mode"] == "max"
    rate = schedule(config)
    config["Global"]["best_by"] = "loss"
    config["Optimizer"] = [{"Momentum": {**config["Optimizer"], "scope": "all"}}]
    best_by(config)
    assert rate["mode"] == "min"


def test_a_schedule_that_cannot_follow_it(config):
    schedule(config, mode="min")
    with pytest.raises(PpclsExtError, match=r"Optimizer\.lr\.mode is min, and it follows top1, the greater the better"):
        best_by(config)
    schedule(config, by_epoch=False)
    with pytest.raises(PpclsExtError, match=r"set Optimizer\.lr\.by_epoch"):
        best_by(config)
    config["Global"]["eval_during_train"] = False
    with pytest.raises(PpclsExtError, match=r"Optimizer\.lr is ReduceOnPlateau, which needs evaluations"):
        best_by(config)
