"""A training with several labels an image: its lists, its evaluation, its thresholds, its record."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import paddle
import pytest

from ppcls_ext.config.folder import KEY
from ppcls_ext.config.lists import evaluate_on, images_in
from ppcls_ext.config.settings import RunSettings, open_run
from ppcls_ext.errors import PpclsExtError
from ppcls_ext.report.label_scores import LabelScores, measures
from ppcls_ext.run import Run
from ppcls_ext.weights.manifest import read_manifest
from tests.helpers import build_engine, prepared
from tests.tiny_dataset import as_multi_label

pytestmark = pytest.mark.usefixtures("registered")


@pytest.fixture
def several(config, dataset, tmp_path, monkeypatch) -> dict:
    """The tiny configuration with three labels an image, in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    config["Arch"]["name"] = "FasterNet_T0"  # the quickest
    return as_multi_label(config, dataset, tmp_path)


def listed(several: dict, loader: str = "Train") -> dict:
    return several["DataLoader"][loader]["dataset"]


def test_paddleclas_is_told_the_task(several):
    del several["Global"]["use_multilabel"]
    assert prepared(several, "train")["Global"]["use_multilabel"] is True


@pytest.mark.parametrize("change", ["\ufeff{}", "{}\n\n"])
def test_lists_that_paddleclas_misreads_reach_it_as_copies(several, change):
    from ppcls.data import MultiLabelDataset

    path = listed(several)["cls_label_path"]
    text = Path(path).read_text()
    expected = MultiLabelDataset(listed(several)["image_root"], path, [])
    assert prepared(several, "train")["DataLoader"]["Train"]["dataset"]["cls_label_path"] == path
    Path(path).write_text(change.format(text), encoding="utf-8")
    config = prepared({**several, "Global": {**several["Global"], "overwrite": True}}, "train")
    dataset = config["DataLoader"]["Train"]["dataset"]
    assert dataset["cls_label_path"] != path
    assert "delimiter" not in dataset, "MultiLabelDataset knows none"
    read = MultiLabelDataset(dataset["image_root"], dataset["cls_label_path"], [])
    assert np.array_equal(read.labels, expected.labels)
    assert [Path(one).read_bytes() for one in read.images] == [Path(one).read_bytes() for one in expected.images]


@pytest.mark.parametrize(
    ("section", "value", "message"),
    [
        (
            "Loss",
            {"Train": [{"CELoss": {"weight": 1.0}}]},
            r"Loss\.Train\.0 is CELoss, which takes one class an image, ",
        ),
        (
            "Metric",
            {"Eval": [{"TopkAcc": {"topk": [1]}}]},
            r"Metric\.Eval\.0 is TopkAcc, .*: expected Hamm",
        ),
        ("MixupOperator", {"alpha": 0.2}, r"batch_transform_ops\.0 is MixupOperator, .*: remove it"),
        ("OpSampler", {"CutmixOperator": {"prob": 1.0}}, r"ops\.0\.OpSampler is CutmixOperator, .*: remove it"),
    ],
)
def test_what_takes_one_class_is_refused(several, section, value, message):
    if section in several:
        several[section].update(value)
    else:
        listed(several)["batch_transform_ops"] = [{section: value}]
    with pytest.raises(PpclsExtError, match=message) as caught:
        prepared(several, "train")
    assert "\n" not in str(caught.value)


def test_what_takes_several_is_refused_for_one(config, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config["Loss"]["Train"] = [{"MultiLabelLoss": {"weight": 1.0, "epsilon": 0.1}}]
    with pytest.raises(PpclsExtError, match=r"Loss\.Train\.0 is MultiLabelLoss, which takes several classes an image"):
        prepared(config, "train")


def test_lists_are_compared_and_counted(several, dataset, caplog):
    several["Global"]["pretrained_model"] = None
    text = Path(listed(several)["cls_label_path"]).read_text()
    Path(listed(several)["cls_label_path"]).write_text(text.replace(",1\n", ",0\n"))
    prepared(several, "train")
    said = [record.getMessage() for record in caplog.records]
    assert any("20 of the 20 images of " in line and "are training images too" in line for line in said)
    assert any(line.endswith("multi_train_list.txt has no image of 1 classes: 2") for line in said)
    several["Global"]["overwrite"] = True
    Path(listed(several)["cls_label_path"]).write_text("png/00.png\t0,0,0\n")
    with pytest.raises(PpclsExtError, match=r"no image of .*multi_train_list.txt shows any class: all labels are 0"):
        prepared(several, "train")


@pytest.mark.parametrize("workers", [0, 1])
def test_evaluation_refuses_a_replaced_image(several, dataset, tmp_path, workers):
    shutil.copytree(dataset / "png", tmp_path / "png")
    listed(several, "Eval")["image_root"] = str(tmp_path)
    several["DataLoader"]["Eval"]["loader"]["num_workers"] = workers
    engine = build_engine(several, "eval")
    (tmp_path / "png" / "13.png").write_bytes(b"")
    with pytest.raises(PpclsExtError, match=r"cannot read .*13\.png .*take it off the list"):
        engine.eval()
    (tmp_path / "png" / "00.png").write_bytes(b"")
    with pytest.raises(PpclsExtError, match=r"cannot read .*00\.png"):
        build_engine(several, "eval")


def test_training_ends_where_images_cannot_be_read(several, dataset, tmp_path):
    shutil.copytree(dataset / "png", tmp_path / "png")
    listed(several)["image_root"] = str(tmp_path)
    engine = build_engine(several)
    (tmp_path / "png" / "13.png").write_bytes(b"")
    with pytest.raises(PpclsExtError, match=r"1 of 24 training images, more than 1%, cannot be read: first .*13\.png"):
        engine.train()


def test_images_of_a_list(several, dataset, tmp_path):
    expected = sorted(dataset.glob("png/*.png"))
    run = RunSettings(several)
    assert images_in(None, run) == expected
    path = tmp_path / "multi_train_list.txt"
    assert images_in(path, run) == expected
    path.write_text(path.read_text().replace(",", ", "))
    assert images_in(path, run) == images_in(None, run) == expected


def test_evaluation_on_another_list(several, dataset, tmp_path):
    (dataset / "several.txt").write_text((tmp_path / "multi_val_list.txt").read_text())
    changed = evaluate_on(RunSettings(several), dataset / "several.txt")
    assert len(changed.image_list("Eval")) == 20
    with pytest.raises(PpclsExtError, match=r"png is a folder, which says one class an image, and the net tells sever"):
        evaluate_on(RunSettings(several), dataset / "png")


def test_check_images(several, tmp_path):
    listed(several)["image_root"] = listed(several, "Eval")["image_root"]
    checked = list(Run(RunSettings(several)).check_images("train"))
    assert [(one.images, one.unreadable) for one in checked] == [(24, []), (20, [])]


RUN = Path("output/FasterNet_T0")


@pytest.fixture
def trained(several, caplog) -> Path:
    """The folder of a training of three epochs."""
    several["Global"]["epochs"] = 3
    train(several)
    caplog.clear()
    return RUN


def train(config):
    """Trains as a process of its own does, in which Paddle counts parameters from 0; returns the engine."""
    with paddle.utils.unique_name.guard():
        engine = build_engine(config)
        engine.train()
    return engine


def said(caplog, word: str) -> list[str]:
    """The lines of this project that hold a word."""
    records = (record for record in caplog.records if record.name == "ppcls_ext")
    return [record.getMessage() for record in records if word in record.getMessage()]


def facts_of(name: str) -> dict:
    return read_manifest(RUN / name).state[KEY]


def test_the_record_and_the_weights_tell_task_and_thresholds(trained):
    record = json.loads((RUN / "run.json").read_text())
    assert record["best"]["metric"] == "mAP"
    assert record["best"]["pictures"] == 20
    assert record[KEY] == facts_of("best_model")
    assert record[KEY]["task"] == "multi-label"
    assert len(record[KEY]["thresholds"]) == 3
    assert open_run(RUN).thresholds == tuple(facts_of("best_model")["thresholds"])
    assert open_run(RUN / "latest").thresholds == tuple(facts_of("latest")["thresholds"])
    assert read_manifest(RUN / "best_model").state["best_metric"] == record["best"]["value"]


def test_eval_gives_what_training_gave(trained):
    rows = (RUN / "metrics.csv").read_text().splitlines()
    names = rows[0].split(",")
    best = dict(zip(names, rows[json.loads((RUN / "run.json").read_text())["best"]["epoch"]].split(",")))
    evaluated = Run(RUN).evaluate()
    first, *host = evaluated.evaluations
    assert (first.metric, first.images, first.thresholds) == ("mAP", 20, open_run(RUN).thresholds)
    assert list(first.metrics) == ["mAP", "f1_micro", "f1_macro", "hamming_distance", "exact_match", "loss"]
    for name, value in first.metrics.items():
        assert value == pytest.approx(float(best[f"eval_{name}"]), rel=1e-4), name
    assert [row["name"] for row in first.classes] == ["red", "green", "dark"]
    assert [evaluation.metric for evaluation in host] == ["HammingDistance", "AccuracyScore"]
    assert str(evaluated).startswith("mAP ")


def test_eval_takes_the_thresholds_that_are_kept(trained, dataset, tmp_path):
    """Also on other images, where others would be better."""
    lines = (tmp_path / "multi_val_list.txt").read_text().splitlines()
    turned = [
        line.replace("1", "x").replace("0", "1").replace("x", "0") for line in (li.partition("\t")[2] for li in lines)
    ]
    rows = [f"{line.partition(chr(9))[0]}\t{labels}\n" for line, labels in zip(lines, turned)]
    (dataset / "turned.txt").write_text("".join(rows))
    (found, *_) = Run(RUN).evaluate(dataset / "turned.txt").evaluations
    assert found.thresholds == open_run(RUN).thresholds


def test_other_thresholds(trained, several, caplog):
    for given, expected in ((0.25, (0.25,) * 3), ([0.0, 0.5, 1.0], (0.0, 0.5, 1.0))):
        (found, *_) = Run(RUN, [f"Global.thresholds={given}"]).evaluate().evaluations
        assert found.thresholds == expected
    assert not said(caplog, "threshold")
    shutil.copy(RUN / "best_model.pdparams", "alone.pdparams")
    several["Global"]["pretrained_model"] = "alone"
    engine = build_engine(several, "eval")
    engine.eval()
    engine.eval()
    assert engine.evaluations[0].thresholds == (0.5,) * 3
    (line,) = said(caplog, "threshold")
    assert line.startswith("no thresholds are known for these weights: 0.5 is taken for each class")


def test_given_thresholds_are_kept(several):
    several["Global"].update(thresholds=[0.1, 0.2, 0.3])
    engine = train(several)
    assert engine.evaluations[0].thresholds == (0.1, 0.2, 0.3)
    assert facts_of("best_model")["thresholds"] == [0.1, 0.2, 0.3]
    assert open_run(RUN).thresholds == (0.1, 0.2, 0.3)


def test_a_resumed_training_keeps_the_thresholds_of_its_best(trained, several):
    best, latest = (facts_of(name)["thresholds"] for name in ("best_model", "latest"))
    several["Global"].update(checkpoints="latest", epochs=4, eval_interval=9)
    train(several)
    assert read_manifest(RUN / "latest").state["epoch"] == 4
    assert facts_of("best_model")["thresholds"] == best
    assert facts_of("latest")["thresholds"] == latest, "no evaluation has chosen others"
    assert json.loads((RUN / "run.json").read_text())[KEY]["thresholds"] == best


def test_the_other_task(trained, config, tmp_path, caplog):
    """Evaluated: refused. Fine-tuned: said. Resumed: refused."""
    config["Arch"]["class_num"] = 3
    config["Global"].update(pretrained_model=str(RUN / "best_model"), overwrite=True)
    with pytest.raises(PpclsExtError, match=r"was trained for multi-label .* the configuration is single-label"):
        build_engine(config, "eval")
    resumed = {**config, "Global": {**config["Global"], "checkpoints": "latest"}}
    with pytest.raises(PpclsExtError, match=r"latest.* was trained for multi-label .* is single-label"):
        build_engine(resumed)
    config["Global"]["output_dir"] = "other"
    caplog.clear()
    train(config)
    assert "task multi-label; the configuration says task single-label" in said(caplog, "was trained with")[0]


def test_evaluation_is_of_the_scores(several):
    """By the network's own outputs, image by image."""
    engine = build_engine(several, "eval")
    engine.eval()
    labels, outputs = [], []
    engine.model.eval()
    with paddle.no_grad():
        for images, batch in engine.eval_dataloader:
            outputs.append(engine.model(images))
            labels.append(batch)
    scores = paddle.nn.functional.sigmoid(paddle.concat(outputs)).numpy()
    found = LabelScores([""] * 20, paddle.concat(labels).numpy().astype(int), scores, (0.5,) * 3)
    ours = engine.evaluations[0].metrics
    assert {name: ours[name] for name in measures(found)} == pytest.approx(measures(found), abs=1e-5)


def test_classes_that_no_evaluated_image_shows(several, tmp_path, caplog):
    path = tmp_path / "multi_val_list.txt"
    text = path.read_text()
    path.write_text(text.replace(",1\n", ",0\n"))
    engine = build_engine(several, "eval")
    engine.eval()
    engine.eval()
    assert said(caplog, "mAP") == ["mAP leaves out 1 of 3 classes, which no evaluated image shows: dark"]
    assert engine.evaluations[0].classes[2]["average_precision"] is None
    path.write_text(text.replace("1,", "0,").replace("1\n", "0\n").replace(",1", ",0"))
    with pytest.raises(PpclsExtError, match=r"no image of .*multi_val_list.txt shows any class"):
        build_engine(several, "eval")
