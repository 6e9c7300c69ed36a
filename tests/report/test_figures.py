"""Every figure is drawn, of the size it should have, and not blank; --save-image writes a file for each image."""

from __future__ import annotations

import sys
import time

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from ppcls_ext.errors import PpclsExtError
from ppcls_ext.report import image_figures
from ppcls_ext.report.charts import _mark_best, draw_class_counts, draw_curves
from ppcls_ext.report.evaluation_report import draw_confusion, draw_reliability
from ppcls_ext.report.figures import class_labels, drawable, figure, font_families
from ppcls_ext.report.image_figures import (
    EXACT,
    LARGEST_SHEET,
    SavedImages,
    activation_map,
    draw_activation_map,
    draw_prediction,
    draw_sheet,
    to_pixels,
)
from ppcls_ext.report.predictions import Predictions

NAMES = ["玫瑰", "été", "роза", "a $name$", "with\nline\x1b[31m", "", "ü" * 80]


@pytest.fixture
def drawn(tmp_path):
    """Checks a PNG: decodes, is not blank, has that size where one is given; returns its pixels."""

    def check(name: str, size: tuple[int, int] | None = None) -> np.ndarray:
        with Image.open(tmp_path / name) as image:
            pixels = np.asarray(image.convert("RGB"))
            assert image.format == "PNG"
            # inches times dots per inch: some versions of Matplotlib round, others cut off
            assert size is None or np.abs(np.subtract(image.size, size)).max() <= 1
        assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 8
        return pixels

    return check


def evaluation(classes: int, pictures: int, names=None) -> Predictions:
    random = np.random.default_rng(0)
    labels = random.integers(0, classes, pictures)
    logits = random.normal(size=(pictures, classes))
    logits[np.arange(pictures), labels] += 3
    powers = np.exp(logits)
    paths = [f"{index}.png" for index in range(pictures)]
    return Predictions(paths, labels, powers / powers.sum(axis=1, keepdims=True), names)


@pytest.mark.parametrize("classes", [2, 7, 60, 61, 1000])
def test_confusion(classes, tmp_path, drawn):
    draw_confusion(evaluation(classes, 400, NAMES if classes == 7 else None), tmp_path / "c.png")
    pixels = drawn("c.png")
    assert 400 < pixels.shape[0] == pixels.shape[1] < 1300


def test_confusion_shows_where_the_mistakes_are(tmp_path, drawn):
    """All pictures of class 0 taken for class 1: another picture than all of them right."""
    probabilities = np.tile([[0.1, 0.9]], (10, 1))
    for name, label in (("right", 1), ("wrong", 0)):
        draw_confusion(Predictions([name] * 10, np.full(10, label), probabilities), tmp_path / f"{name}.png")
    assert (drawn("right.png") != drawn("wrong.png")).any()


def test_reliability(tmp_path, drawn):
    draw_reliability(evaluation(5, 100), tmp_path / "r.png")
    drawn("r.png", (520, 560))


@pytest.mark.parametrize("epochs", [1, 3, 200])
def test_curves(epochs, tmp_path, drawn):
    rows = [{"epoch": float(n), "train_loss": 1 / n, "learning_rate": 0.1} for n in range(1, epochs + 1)]
    for row in rows[1::2]:
        row.update(eval_loss=2 / row["epoch"], eval_top1=1 - 1 / row["epoch"], eval_top5=1.0)
    draw_curves(rows, tmp_path / "curves.png")
    drawn("curves.png", (1200, 380))


@pytest.mark.parametrize("decides", ["loss", "HammingDistance"])
@pytest.mark.parametrize("greater", [True, False])
def test_curves_mark_the_first_of_the_best_epochs(tmp_path, drawn, decides, greater):
    values = [0.9, 0.4, 0.2, 0.2, 0.4, 0.4, 0.3]
    rows = [{"epoch": n, f"eval_{decides}": value, "learning_rate": 0.1} for n, value in enumerate(values, 1)]
    draw_curves(rows, tmp_path / "curves.png", decides, greater)
    drawn("curves.png", (1200, 380))
    axes = Figure().subplots()
    _mark_best(axes, rows, decides, greater)
    assert axes.get_title().endswith(f"best {decides} " + ("0.9000 in epoch 1" if greater else "0.2000 in epoch 3"))
    for row in rows[4:]:  # another metric decided before
        row[f"best_{decides}"] = 0.0
    _mark_best(axes, rows, decides, greater)
    assert axes.get_title().endswith(f"best {decides} " + ("0.4000 in epoch 5" if greater else "0.3000 in epoch 7"))


@pytest.mark.parametrize("classes", [2, 7, 61, 1000])
def test_class_counts(classes, tmp_path, drawn):
    labels = {"train": np.arange(classes).repeat(3), "eval": [0]}
    draw_class_counts(labels, NAMES if classes == 7 else None, classes, tmp_path / "data.png")
    assert drawn("data.png").shape[1] == 900


@pytest.mark.parametrize("count", [1, 2, 20, LARGEST_SHEET + 5])
def test_sheet_has_a_cell_for_each_image(count, tmp_path, drawn):
    pictures = [np.full((8 + index % 5, 9, 3), (250, 0, 250), np.uint8) for index in range(count)]
    captions = [f"été {i}\nb" for i in range(count)]
    assert draw_sheet(pictures, captions, "t", tmp_path / "s.png") == min(count, LARGEST_SHEET)
    purple = (drawn("s.png") == (250, 0, 250)).all(axis=2)
    assert _cells(purple) == min(count, LARGEST_SHEET)


def _cells(mask: np.ndarray) -> int:
    """How many patches there are, which stand in rows that no other row touches."""

    def starts(line: np.ndarray) -> np.ndarray:
        return np.flatnonzero(np.diff(np.concatenate([[False], line]).astype(int)) == 1)

    rows = np.split(mask, starts(mask.any(axis=1)))[1:]
    return sum(len(starts(row.any(axis=0))) for row in rows)


def test_prediction(tmp_path, drawn):
    picture = np.random.default_rng(0).integers(0, 255, (40, 60, 3), np.uint8)
    draw_prediction(picture, NAMES[:5], [0.6, 0.2, 0.1, 0.06, 0.04], "a_b.png", tmp_path / "p.png")
    drawn("p.png", (760, 320))


def test_activation_map(tmp_path, drawn):
    random = np.random.default_rng(0)
    features, weight = random.normal(size=(6, 3, 4)), random.normal(size=6)
    evidence = activation_map(features, weight)
    assert evidence.shape == (3, 4)
    assert evidence.mean() == pytest.approx(features.mean(axis=(1, 2)) @ weight)
    draw_activation_map(np.zeros((30, 40, 3), np.uint8), evidence, "été", 0.9, EXACT, tmp_path / "a.png")
    drawn("a.png", (820, 440))


def test_normalisation_is_undone():
    pixels = np.random.default_rng(0).integers(0, 256, (2, 5, 6, 3), np.uint8)
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    images = ((pixels / 255 - mean) / std).transpose(0, 3, 1, 2).astype("float32")
    assert (to_pixels(images, mean, std) == pixels).all()


def test_text_without_a_font_is_said():
    assert drawable("été", "class 3") == "été"
    assert drawable("a\x1b[31m\nb", "class 3") == "a [31m b"
    assert drawable("a\u0f40", "class 3") == "class 3 (no font for its name)"
    assert drawable("\x07", "class 3") == "class 3"
    assert drawable("$a$", "class 3") == r"\$a\$"
    assert class_labels(["x", "", "\u0f40"], 4) == ["x", "class 1", "class 2 (no font for it…", "class 3"]
    assert font_families()[0] == "DejaVu Sans"


def test_chinese_names_are_drawn():
    pytest.importorskip("zhplot", reason="needs the font of the extra [report]")
    assert drawable("玫瑰", "class 0") == "玫瑰"


def test_a_failure_leaves_nothing(tmp_path):
    with pytest.raises(ZeroDivisionError), figure(tmp_path / "x.png", 100, 100):
        _ = 1 / 0
    assert not list(tmp_path.iterdir())


def test_missing_matplotlib(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(PpclsExtError, match="matplotlib"), figure(tmp_path / "x.png", 100, 100):
        pass


RESULT = {"class_ids": [1, 0], "scores": [0.75, 0.25], "label_names": ["été", ""]}
PICTURE = np.random.default_rng(0).integers(0, 255, (900, 30, 3), np.uint8)


def test_one_image(tmp_path):
    saved = SavedImages(tmp_path / "one.png", ["a/flower.jpg"])
    saved.add("a/flower.jpg", PICTURE, RESULT)
    saved.finish()
    assert saved.written == [tmp_path / "one.png"]
    with Image.open(tmp_path / "one.png") as image:
        assert image.size[0] == 760


def test_many_images_and_a_sheet(tmp_path):
    sources = ["a/flower.jpg", "b/flower.png", "sheet-01.jpg"]
    saved = SavedImages(tmp_path / "out", sources)
    for name in sources:
        saved.add(name, PICTURE, {**RESULT, "label_names": []})
    saved.finish()
    names = [path.name for path in saved.written]
    assert names == ["flower.png", "flower-2.png", "sheet-01-2.png", "sheet-01.png"]
    assert all(path.stat().st_size > 1000 for path in saved.written)


@pytest.mark.parametrize(("target", "count"), [("x.png", 2), ("x.jpg", 1)])
def test_targets_that_cannot_be(target, count, tmp_path):
    with pytest.raises(PpclsExtError, match="--save-image is"):
        SavedImages(tmp_path / target, ["a.png"] * count)


@pytest.fixture
def undrawn(monkeypatch):
    """Names alone matter: nothing is drawn."""
    monkeypatch.setattr(image_figures, "draw_prediction", lambda *_: None)
    monkeypatch.setattr(image_figures, "draw_sheet", lambda *_: None)


def test_many_images_of_one_name_take_linear_time(tmp_path, undrawn):
    sources = [f"{index}/cat.png" for index in range(20_000)]
    start = time.process_time()
    saved = SavedImages(tmp_path, sources)
    for source in sources:
        saved.add(source, PICTURE[:4, :4], RESULT)
    saved.finish()
    assert time.process_time() - start < 5
    assert len({path.name for path in saved.written}) == 20_000 + 313
    assert saved.written[-1].name == "sheet-313.png"


def test_images_that_are_called_as_sheets_are(tmp_path, undrawn):
    sources = ["a/sheet.png", "b/sheet.png", "c/sheet-01.png", "d/sheet-2.png"]
    saved = SavedImages(tmp_path, sources)
    for source in sources:
        saved.add(source, PICTURE[:4, :4], RESULT)
    saved.finish()
    names = [path.name for path in saved.written]
    assert names == ["sheet.png", "sheet-2.png", "sheet-01-2.png", "sheet-2-2.png", "sheet-01.png"]


def test_no_image_is_drawn_over_a_source(tmp_path, undrawn):
    """`--save-image` into the folder of the images, or to the image itself."""
    saved = SavedImages(tmp_path, [tmp_path / "a.png", tmp_path / "b.jpg"])
    saved.add(tmp_path / "a.png", PICTURE, RESULT)
    saved.add(tmp_path / "b.jpg", PICTURE, RESULT)
    assert [path.name for path in saved.written] == ["a-2.png", "b.png"]
    with pytest.raises(PpclsExtError, match=r"--save-image is .*a\.png, the image itself"):
        SavedImages(tmp_path / "a.png", [tmp_path / "a.png"])


def test_a_long_name_is_not_looked_through(tmp_path):
    start = time.process_time()
    assert drawable("r" * 50_000_000, "class 3") == "r" * 200
    assert time.process_time() - start < 0.2
