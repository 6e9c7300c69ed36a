"""The measures of a classifier on labelled images, compared with scikit-learn and with sums by hand."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import f1_score, precision_recall_fscore_support

from ppcls_ext.data.image_input import network_input, network_inputs
from ppcls_ext.data.image_rule import Preprocessing
from ppcls_ext.data.labelled import LabelledImages, labelled_images
from ppcls_ext.errors import PpclsExtError
from ppcls_ext.predict.answers import softmax
from ppcls_ext.predict.classifier import Classifier
from ppcls_ext.predict.metadata import Metadata
from ppcls_ext.report.label_scores import LabelScores
from ppcls_ext.report.measured import Comparison, class_table, evaluate_file, measures_of
from ppcls_ext.report.predictions import Predictions, answered, macro_f1, per_class

NAMES = ("red", "green", "blue")
RULE = Preprocessing(resize_short=12, crop=(8, 8), mean=(0.5,) * 3, std=(0.5,) * 3)


class Brightest:
    """A network whose logits are the mean of each channel in the left half, so that a mirror image differs."""

    def __init__(self, task: str = "single-label", batch: int | None = None, rule: Preprocessing = RULE) -> None:
        self.metadata = Metadata("Brightest", rule, NAMES, task=task, thresholds=None)
        self.batch, self.image_shape, self.ends_in_logits = batch, [3, 8, 8], True

    def run(self, images: np.ndarray) -> np.ndarray:
        return 4 * images[..., :4].mean(axis=(2, 3))


def paint(path: Path, channel: int, seed: int) -> None:
    levels = np.random.default_rng(seed).integers(0, 140, (14 + seed % 3, 20, 3), dtype=np.uint8)
    levels[..., channel] += 60
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(levels).save(path)


@pytest.fixture
def folder(tmp_path) -> Path:
    """Four images of each class; one of green that is blue."""
    for channel, name in enumerate(NAMES):
        for number in range(4):
            paint(tmp_path / "test" / name / f"{number}.png", channel, 4 * channel + number)
    paint(tmp_path / "test" / "green" / "odd.png", 2, 99)
    return tmp_path / "test"


def evaluate(folder, **options):
    network = options.pop("network", None) or Brightest()
    images = labelled_images(folder, NAMES, network.metadata.task)
    return evaluate_file(Classifier.of(network), images, "net", **options)


@pytest.mark.parametrize("absent", [False, True])
def test_f1_is_scikit_learns(absent):
    random = np.random.default_rng(3)
    labels = random.integers(0, 6 if absent else 9, 300)
    probabilities = softmax(random.normal(size=(300, 9)) + 2 * np.eye(9)[labels])
    probabilities[:, 8 if absent else 0] = 0  # never predicted
    found = Predictions([""] * 300, labels, probabilities)
    assert macro_f1(found) == pytest.approx(f1_score(labels, found.predicted, average="macro"))
    ours = per_class(found)
    theirs = precision_recall_fscore_support(labels, found.predicted, labels=range(9), zero_division=0)
    for index, row in enumerate(ours):
        assert [row[key] or 0 for key in ("precision", "accuracy", "f1")] == pytest.approx(
            [values[index] for values in theirs[:3]]
        )
        assert (row["f1"] is None) == (row["pictures"] == 0)


def test_answers_from_a_probability_on():
    scores = np.array([[0.9, 0.1], [0.8, 0.2], [0.4, 0.6], [0.45, 0.55]])
    found = Predictions([""] * 4, np.array([0, 1, 1, 1]), scores)
    points = answered(found, (0.5, 0.6, 0.85, 0.95))
    assert [(point.share, point.accuracy) for point in points] == [
        (1.0, 0.75),
        (0.75, pytest.approx(2 / 3)),
        (0.25, 1.0),
        (0.0, None),
    ]
    assert str(points[2]) == "threshold 0.85: answers 25.0% of the images, 100.0% of them right"
    assert str(points[3]) == "threshold 0.95: answers 0.0% of the images"


@pytest.mark.parametrize("batch", [None, 1, 5])
def test_folder(folder, batch):
    result = evaluate(folder, network=Brightest(batch=batch), threshold=0.5)
    assert (result.images, result.found.classes, result.top1) == (13, 3, pytest.approx(12 / 13))
    assert set(result.metrics) == {"top1", "f1_macro", "ece"}, "top-5 of three classes says nothing"
    assert [(row["name"], row["images"], row["recall"]) for row in result.per_class] == [
        ("red", 4, 1.0),
        ("green", 5, 0.8),
        ("blue", 4, 1.0),
    ]
    first, second, third = str(result).splitlines()
    assert first == "top1 0.9231 over 13 images"
    assert second.startswith(f"macro F1 {result.f1_macro:.4f}, calibration error {result.ece:.4f} (ECE, 15 bins), ")
    assert second.endswith(" images/s")
    assert third == str(answered(result.found, [0.5])[0])
    assert [line.split()[0] for line in class_table(result)] == ["class", "green", "blue", "red"], "the worst first"


def test_list_and_top_k(folder):
    lines = [
        f"{file.relative_to(folder)} {index}\n"
        for index, name in enumerate(NAMES)
        for file in (folder / name).iterdir()
    ]
    (folder / "list.txt").write_text("".join(lines))
    by_list, by_folder = evaluate(folder / "list.txt", topk=2), evaluate(folder, topk=2)
    assert by_list.metrics == pytest.approx(by_folder.metrics)
    assert by_list.metrics["top2"] >= by_list.top1
    (folder / "label_list.txt").write_text("0 green\n1 red\n2 blue\n")
    with pytest.raises(PpclsExtError, match=r"'green' is 0, and in the file it is 1"):
        evaluate(folder / "list.txt")


def test_a_result_as_json(folder):
    document = json.loads(json.dumps(evaluate(folder).as_dict(per_class=True), allow_nan=False))
    assert (document["model"], document["images"], document["classes"], document["ece_bins"]) == ("net", 13, 3, 15)
    assert len(document["answered"]) > 3
    assert set(document["per_class"][0]) == {"class", "name", "images", "precision", "recall", "f1"}
    assert "per_class" not in evaluate(folder).as_dict()


def test_several_labels(folder):
    files = sorted(folder.rglob("*.png"))
    marks = [
        "".join(f"{file.relative_to(folder)}\t{int(file.parent.name == 'red')},{int(file.parent.name != 'red')},0\n")
        for file in files
    ]
    (folder / "list.txt").write_text("".join(marks))
    network = Brightest("multi-label")
    result = evaluate(folder / "list.txt", network=network, threshold={None: 0.4, "red": 0.7})
    assert isinstance(result.found, LabelScores)
    assert list(result.found.thresholds) == [0.7, 0.4, 0.4]
    assert result.mAP == pytest.approx(measures_of(result.found)["mAP"])
    assert result.top1 is result.ece is None
    assert [row["images"] for row in result.per_class] == [4, 9, 0]
    assert str(result).splitlines()[0].startswith("mAP ")
    assert class_table(result)[-1].startswith("blue"), "without an image"
    with pytest.raises(PpclsExtError, match="is a folder, which says one class an image"):
        evaluate(folder, network=network)
    with pytest.raises(PpclsExtError, match="topk is for one class an image"):
        evaluate(folder / "list.txt", network=network, topk=2)


def test_views_are_averaged(folder):
    file = folder / "red" / "0.png"
    views = {tta: network_inputs(file, RULE, tta) for tta in ("flip", "ten-crop")}
    assert {tta: images.shape for tta, images in views.items()} == {"flip": (2, 3, 8, 8), "ten-crop": (10, 3, 8, 8)}
    np.testing.assert_array_equal(views["flip"][0], network_input(file, RULE))
    np.testing.assert_array_equal(views["flip"][1], views["flip"][0][..., ::-1])
    np.testing.assert_array_equal(views["ten-crop"][5:], views["ten-crop"][:5][..., ::-1])
    width = round(20 * 12 / Image.open(file).height)
    whole = network_input(
        file, Preprocessing(resize=(width, 12), resize_short=None, crop=None, mean=(0.5,) * 3, std=(0.5,) * 3)
    )
    corners = [whole[:, :8, :8], whole[:, :8, -8:], whole[:, -8:, :8], whole[:, -8:, -8:]]
    np.testing.assert_array_equal(views["ten-crop"][1:5], corners)
    for tta in views:
        for batch in (None, 3):
            network = Brightest(batch=batch)
            result = evaluate(folder, network=network, tta=tta)
            classifier = Classifier.of(Brightest())
            scores = [classifier.scores(network_inputs(name, RULE, tta)).mean(axis=0) for name in result.found.paths]
            assert result.found.confidence == pytest.approx(np.max(scores, axis=1))
            assert str(result).splitlines()[0].endswith(f" over 13 images (tta: {tta})")
    fixed = Preprocessing(resize_short=None, resize=(8, 8), crop=None)
    with pytest.raises(PpclsExtError, match="ten-crop needs a crop that is smaller"):
        evaluate(folder, network=Brightest(rule=fixed), tta="ten-crop")
    with pytest.raises(PpclsExtError, match="tta is 'mirror': expected flip or ten-crop"):
        evaluate(folder, tta="mirror")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"topk": 3}, "topk is 3, and there are 3 classes"),
        ({"topk": 0}, "topk is 0"),
        ({"threshold": 1.5}, "threshold is 1.5: expected a number from 0 to 1"),
        ({"threshold": {"red": 0.5}}, "thresholds of single classes are for several labels"),
    ],
)
def test_bad_options(folder, options, message):
    with pytest.raises(PpclsExtError, match=message):
        evaluate(folder, **options)


def test_what_cannot_be_measured(folder):
    (folder / "red" / "1.png").write_bytes(b"no image")
    with pytest.raises(PpclsExtError, match=r"red/1\.png: "):
        evaluate(folder)
    (folder / "red" / "1.png").unlink()
    paint(folder / "yellow" / "0.png", 0, 1)
    with pytest.raises(PpclsExtError, match="yellow is the folder of no class: expected red, green, blue"):
        evaluate(folder)
    beyond = LabelledImages([str(folder / "red" / "0.png")], np.array([3]))
    with pytest.raises(PpclsExtError, match=r"red/0\.png is of class 3, and the network tells the classes 0 to 2"):
        evaluate_file(Classifier.of(Brightest()), beyond, "net")


def test_a_class_without_a_folder_is_said(folder, caplog):
    for file in (folder / "blue").iterdir():
        file.unlink()
    result = evaluate(folder)
    assert "has no image of 1 of the file's 3 classes: blue" in caplog.text
    assert result.per_class[2]["f1"] is None
    assert result.f1_macro == pytest.approx(f1_score(result.found.labels, result.found.predicted, average="macro"))


def test_results_side_by_side(folder):
    one, other = evaluate(folder, threshold=0.6), evaluate(folder, tta="flip", threshold=0.6)
    head, *rows = str(Comparison([one, other._replace(model="a longer name.onnx", size=3 << 20)])).splitlines()
    assert head.split("  ")[0] == "model"
    assert [" ".join(head.split()), len(rows)] == ["model MiB top-1 macro F1 ECE answered of them right images/s", 2]
    assert f"{one.top1:.4f}" in rows[0]
    assert rows[1].startswith("a longer name.onnx  3.00")
    assert len({len(line) for line in (head, *rows)}) == 1, "columns stand below each other"
