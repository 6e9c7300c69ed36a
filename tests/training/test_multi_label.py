"""A training with several labels an image: its lists, its evaluation, its thresholds, its record."""

from __future__ import annotations

import copy
import csv
import json
import shutil
from pathlib import Path

import numpy as np
import paddle
import pytest
import yaml

import ppcls_ext
from ppcls_ext import doctor
from ppcls_ext.config.folder import KEY
from ppcls_ext.config.lists import evaluate_on, images_in, use_lists
from ppcls_ext.config.settings import RunSettings, open_run
from ppcls_ext.data.label_table import make_label_lists
from ppcls_ext.errors import PpclsExtError
from ppcls_ext.hosts.paddleclas.versions import multi_label_output
from ppcls_ext.report.label_scores import LabelScores, measures
from ppcls_ext.run import Run
from ppcls_ext.training.reports import TrainingReport
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


@pytest.mark.parametrize("change", ["{}", "\ufeff{}", "{}\n\n"])
def test_lists_that_paddleclas_misreads_reach_it_as_they_were_read(several, change):
    from ppcls.data import MultiLabelDataset

    path = Path(listed(several)["cls_label_path"])
    expected = MultiLabelDataset(listed(several)["image_root"], str(path), listed(several)["transform_ops"])
    path.write_text(change.format(path.read_text()), encoding="utf-8")
    built = build_engine(several, "train").train_dataloader.dataset
    assert isinstance(built, MultiLabelDataset)
    assert np.array_equal(built.labels, expected.labels)
    assert list(built.images) == expected.images
    for one, other in zip(built[5], expected[5]):
        assert one.dtype == other.dtype
        assert np.array_equal(one, other)


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
            r"Metric\.Eval\.0\.TopkAcc is for images with one class each, .*: take Hamm",
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
    with pytest.raises(PpclsExtError, match=r"cannot read .*13\.png: .*take it off the list"):
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
    config["Infer"]["PostProcess"]["class_id_map_file"] = None
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


def test_figures_and_the_report(several):
    """They are what their names say, and nothing is said to be missing."""
    several["Global"].update(report=True, epochs=2)
    train(several)
    names = {path.name for path in RUN.glob("*.png")}
    assert names == {"data.png", "batch.png", "curves.png"}
    page = (RUN / "report" / "report.html").read_text(encoding="utf-8")
    for heading in ("Average precision", "Classes, at their thresholds", "Curves", "First training batch"):
        assert f"<h2>{heading}</h2>" in page
    assert "Confusion" not in page
    with open(RUN / "report" / "per_class.csv", encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [(row["name"], row["images"]) for row in rows] == [("red", "10"), ("green", "10"), ("dark", "7")]
    kept = open_run(RUN).thresholds
    assert [float(row["threshold"]) for row in rows] == pytest.approx(kept, rel=1e-4)
    evaluated = Run(RUN).evaluate(report="again")
    assert (Path("again") / "per_class.csv").read_text() == (RUN / "report" / "per_class.csv").read_text()
    assert evaluated.page == Path("again/report.html")


def test_captions_of_the_first_batch(several):
    several["Global"]["report"] = False
    report = TrainingReport(build_engine(several), {KEY: {"class_names": ["red", "", "dark"]}})
    assert report._caption(np.array([1, 0, 1.0])) == ["red", "dark"]
    assert report._caption(np.array([0, 1.0, 0])) == ["class 1"]
    assert report._caption(np.zeros(3)) == ["no class"]
    assert report._caption(np.ones(9))[-1] == "and 6 more"


@pytest.fixture
def photos(dataset, tmp_path) -> Path:
    """The images of the tiny data set in a folder, with labels.csv."""
    shutil.copytree(dataset / "png", tmp_path / "photos")
    rows = [f"{index:02}.png;{1 - index % 2};{index % 2};{int(index % 3 == 0)}\n" for index in range(24)]
    (tmp_path / "photos" / "labels.csv").write_text("\ufeffname;red;green;dark\n" + "".join(rows), encoding="utf-8")
    return tmp_path / "photos"


@pytest.fixture
def plain(several, config, tmp_path) -> str:
    """The file of a configuration of one class an image, which mixes images and smooths labels."""
    config["DataLoader"]["Train"]["dataset"]["batch_transform_ops"] = [
        {"OpSampler": {"MixupOperator": {"alpha": 0.2, "prob": 0.5}, "CutmixOperator": {"alpha": 0.2, "prob": 0.5}}}
    ]
    config["Loss"]["Train"] = [{"CELoss": {"weight": 1.0, "epsilon": 0.1}}]
    (tmp_path / "plain.yml").write_text(yaml.safe_dump(config, sort_keys=False))
    return str(tmp_path / "plain.yml")


def test_a_folder_and_a_table(photos, plain, caplog, capsys):
    run = ppcls_ext.train(plain, data=photos, labels=photos / "labels.csv")
    assert "3 classes, 20 images to train on, 4 to evaluate on" in capsys.readouterr().out.splitlines()
    assert said(caplog, "several labels an image") == [
        "several labels an image: MultiLabelLoss in the place of CELoss with label smoothing, no MixupOperator and no "
        "CutmixOperator, for images of one class each"
    ]
    settings = run.settings
    assert (settings.task, settings.class_num, settings.class_names) == ("multi-label", 3, ("red", "green", "dark"))
    assert settings.section("Loss") == {when: [{"MultiLabelLoss": {"weight": 1.0}}] for when in ("Train", "Eval")}
    assert settings.dataset("Train")["batch_transform_ops"] is None
    assert Path(settings.section("Infer")["infer_imgs"]).is_file()
    assert settings.section("Infer")["PostProcess"]["name"] == multi_label_output()
    assert settings.thresholds is not None
    (photos / "labels.csv").unlink()
    before = (run.folder / "lists" / "train_list.txt").read_text()
    with paddle.utils.unique_name.guard():
        checked = ppcls_ext.run.open_training(plain, resume=True).check_images("train", data=photos, labels="gone.csv")
        assert [one.images for one in checked] == [20, 4], "a resumed run keeps its lists"
    assert (run.folder / "lists" / "train_list.txt").read_text() == before


def test_other_operators_and_losses_stay(photos, plain, config, tmp_path):
    config["DataLoader"]["Train"]["dataset"]["batch_transform_ops"] = [{"MixupOperator": {"alpha": 1}}]
    made = make_label_lists(photos, photos / "labels.csv", tmp_path / "lists")
    config["Loss"] = {when: [{"MultiLabelLoss": {"weight": 2.0, "epsilon": 0.1}}] for when in ("Train", "Eval")}
    config["Metric"]["Eval"] = [{"AccuracyScore": {"base": "sample"}}]
    kept = copy.deepcopy((config["Loss"], config["Metric"]))
    use_lists(config, made)
    assert (config["Loss"], config["Metric"]) == kept
    assert config["DataLoader"]["Train"]["dataset"]["batch_transform_ops"] is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"labels": "labels.csv"}, r"labels \(--labels\) is labels.csv: expected data \(--data\) too"),
        ({"data": "photos", "labels": "gone.csv"}, "no table of labels gone.csv"),
        ({"data": "nowhere", "labels": "photos/labels.csv"}, "no folder of images .*nowhere"),
        ({"data": "photos", "labels": "photos/labels.csv", "val_share": 1}, "the share of images to evaluate on is 1"),
    ],
)
def test_what_is_refused_leaves_nothing(photos, plain, tmp_path, options, message):
    with pytest.raises(PpclsExtError, match=message):
        ppcls_ext.train(plain, **options)
    assert not (tmp_path / "output").exists()


def test_a_loss_that_is_asked_for_stays(photos, config, tmp_path):
    made = make_label_lists(photos, photos / "labels.csv", tmp_path / "lists")
    config["Loss"]["Train"] = [{"MultiLabelAsymmetricLoss": {"weight": 1.0}}]
    use_lists(config, made)
    assert config["Loss"] == {
        "Train": [{"MultiLabelAsymmetricLoss": {"weight": 1.0}}],
        "Eval": [{"MultiLabelLoss": {"weight": 1.0}}],
    }


def test_the_asymmetric_loss(several):
    """Trains where PaddleClas has it; else the name is refused, with what is near it."""
    import ppcls.loss

    several["Loss"]["Train"] = [{"MultiLabelAsymmetricLoss": {"weight": 1.0}}]
    if hasattr(ppcls.loss, "MultiLabelAsymmetricLoss"):
        assert np.isfinite(train(several).evaluations[0].value)
    else:
        with pytest.raises(
            PpclsExtError, match=r"MultiLabelAsymmetricLoss, which PaddleClas does not have; near it: Mul"
        ):
            build_engine(several)


def test_dali_reads_one_class(several):
    several["Global"]["use_dali"] = True
    with pytest.raises(PpclsExtError, match=r"Global.use_dali reads one class an image, and the lists give several"):
        prepared(several, "train")


def test_the_doctor_counts(several, tmp_path):
    found = doctor._check_data(RunSettings(several), str(tmp_path / "tried"))
    assert (found.text, found.advice) == ("Train 24 images of 3 classes, Eval 20 images of 3 classes", "")


def test_configurations_that_do_not_fit(photos, several, config, tmp_path):
    made = make_label_lists(photos, photos / "labels.csv", tmp_path / "lists")
    config["DataLoader"]["Eval"]["dataset"]["name"] = "LogoDataset"
    with pytest.raises(PpclsExtError, match=r"--labels needs a configuration that classifies: DataLoader\.Eval"):
        use_lists(config, made)
    with pytest.raises(PpclsExtError, match=r"--data \(without --labels\) needs a configuration that classifies"):
        use_lists(several, made._replace(task="single-label"))
