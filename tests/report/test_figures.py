"""Every figure is drawn, of the size it should have, and not blank; --save-image writes a file for each image."""

from __future__ import annotations

import itertools
import logging
import sys
import time

import numpy as np
import pytest
from matplotlib.container import BarContainer
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from ppcls_ext.errors import PpclsExtError
from ppcls_ext.report import figures, image_figures
from ppcls_ext.report.charts import (
    NAMED,
    _mark_best,
    draw_class_counts,
    draw_curves,
    draw_latency,
    drawn_latencies,
)
from ppcls_ext.report.evaluation_report import MATRIX, PAIRS, draw_confusion, draw_reliability
from ppcls_ext.report.figures import class_labels, drawable, figure, fitted, font_families, text_width
from ppcls_ext.report.image_figures import (
    CELL,
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
LONG = ["Chrysanthemum × morifolium (florist's daisy, garden mum), variety 12", "玫瑰" * 30, "W" * 90, "été", "$x$ y$"]


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


@pytest.fixture
def kept(monkeypatch) -> list[Figure]:
    """The figures that were written, as matplotlib has laid them out."""
    written, save = [], Figure.savefig

    def keep(self, *args, **options):
        save(self, *args, **options)
        written.append(self)

    monkeypatch.setattr(Figure, "savefig", keep)
    return written


def texts_of(drawn: Figure) -> list[Text]:
    """All texts that are to be seen in a figure."""
    found = [*drawn.texts, *(text for legend in drawn.legends for text in legend.get_texts())]
    for axes in drawn.axes:
        found += [*axes.texts, axes.title]
        if axes.axison:
            found += [axes.xaxis.label, axes.yaxis.label]
            for axis, limits in ((axes.xaxis, axes.get_xlim()), (axes.yaxis, axes.get_ylim())):
                ticks = axis.get_major_ticks()
                found += [tick.label1 for tick in ticks if min(limits) <= tick.get_loc() <= max(limits)]
    return [text for text in found if text.get_visible() and text.get_text()]


def check_texts(drawn: Figure) -> None:
    """Every text lies within the figure, and none over another."""
    texts = texts_of(drawn)
    assert texts
    boxes = np.array([text.get_window_extent().extents for text in texts])  # left, bottom, right, top, px
    outside = (boxes[:, :2] < -1).any(axis=1) | (boxes[:, 2:] > np.add(drawn.bbox.size, 1)).any(axis=1)
    assert not outside.any(), texts[int(outside.argmax())].get_text()
    common = np.minimum(boxes[:, None, 2:], boxes[:, 2:]) - np.maximum(boxes[:, None, :2], boxes[:, :2])
    over = np.triu(common.min(axis=2) >= 2, 1)  # boxes have some room around their letters
    assert not over.any(), [texts[index].get_text() for index in np.argwhere(over)[0]]


def evaluation(classes: int, pictures: int, names=None) -> Predictions:
    random = np.random.default_rng(0)
    labels = random.integers(0, classes, pictures)
    logits = random.normal(size=(pictures, classes))
    logits[np.arange(pictures), labels] += 3
    powers = np.exp(logits)
    paths = [f"{index}.png" for index in range(pictures)]
    return Predictions(paths, labels, powers / powers.sum(axis=1, keepdims=True), names)


@pytest.mark.parametrize(("classes", "pictures"), [(2, 400), (5, 400), (MATRIX, 400_000)])
def test_a_confusion_matrix_has_names_and_counts(classes, pictures, tmp_path, drawn, kept):
    names = [f"{LONG[index % len(LONG)]} {index}" for index in range(classes)]
    found = evaluation(classes, pictures, names)
    draw_confusion(found, tmp_path / "c.png")
    drawn("c.png")
    check_texts(kept[0])
    axes = kept[0].axes[0]
    for axis in (axes.xaxis, axes.yaxis):
        labels = [label.get_text() for label in axis.get_ticklabels()]
        assert len(set(labels)) == len(labels) == classes, "shortened names can be told apart"
    assert sum(int(text.get_text()) for text in axes.texts) == pictures
    cell = axes.get_window_extent().width / classes
    assert all(max(text.get_window_extent().size) <= cell for text in axes.texts)


@pytest.mark.parametrize("classes", [MATRIX + 1, 1000])
def test_of_many_classes_the_most_confused_pairs_are_drawn(classes, tmp_path, drawn, kept):
    names = [f"{LONG[index % len(LONG)]} {index}" for index in range(classes)]
    found = evaluation(classes, 4000, names)
    draw_confusion(found, tmp_path / "c.png")
    drawn("c.png")
    check_texts(kept[0])
    axes = kept[0].axes[0]
    (bars,) = [container for container in axes.containers if isinstance(container, BarContainer)]
    counts = [round(bar.get_width()) for bar in bars]
    assert len(counts) == PAIRS
    assert counts == sorted(counts, reverse=True)
    said = [text.get_text() for text in axes.texts]
    assert all(" → " in name for name in said[::2])
    for count, figures_ in zip(counts, said[1::2]):
        assert figures_.startswith(f"{count} image")
        assert figures_.endswith("%")


def test_no_mistakes_among_many_classes(tmp_path, drawn, kept):
    probabilities = np.eye(40)
    draw_confusion(Predictions(["a"] * 40, np.arange(40), probabilities), tmp_path / "c.png")
    drawn("c.png")
    assert "no mistakes" in kept[0].axes[0].get_title()


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
def test_curves_mark_the_first_of_the_best_epochs(tmp_path, drawn, kept, decides, greater):
    values = [0.9, 0.4, 0.2, 0.2, 0.4, 0.4, 0.3]
    rows = [{"epoch": n, f"eval_{decides}": value, "learning_rate": 0.1} for n, value in enumerate(values, 1)]
    draw_curves(rows, tmp_path / "curves.png", decides, greater)
    drawn("curves.png", (1200, 380))
    check_texts(kept[0])
    assert all(axes.title.get_window_extent().width <= axes.get_window_extent().width for axes in kept[0].axes)
    axes = Figure().subplots()
    _mark_best(axes, rows, decides, greater)
    assert axes.get_title().endswith(f"best {decides} " + ("0.9000 in epoch 1" if greater else "0.2000 in epoch 3"))
    for row in rows[4:]:  # another metric decided before
        row[f"best_{decides}"] = 0.0
    _mark_best(axes, rows, decides, greater)
    assert axes.get_title().endswith(f"best {decides} " + ("0.4000 in epoch 5" if greater else "0.3000 in epoch 7"))


@pytest.mark.parametrize("classes", [2, 7, NAMED, NAMED + 1, 1000])
def test_class_counts(classes, tmp_path, drawn, kept):
    labels = {"train": np.arange(classes).repeat(3), "eval": [0]}
    draw_class_counts(labels, (NAMES + LONG) * 90, classes, tmp_path / "data.png")
    assert drawn("data.png").shape[1] == 900
    check_texts(kept[0])


@pytest.mark.parametrize("many", [10, 5000])
def test_a_line_of_counts_is_to_be_seen(many, tmp_path, kept):
    """Equal counts, counts of 0 and a few large classes: no line lies on the border, and no two are one."""
    labels = {"train": np.concatenate([np.arange(100).repeat(10), np.zeros(many, int)]), "evaluation": np.arange(50)}
    draw_class_counts(labels, [f"{LONG[0]}{index}" for index in range(100)], 100, tmp_path / "data.png")
    drawn = kept[0]
    check_texts(drawn)
    axes, beside = drawn.axes
    assert (axes.get_yscale() == "linear") == (many == 10)
    for line in axes.lines:
        low, high = (
            axes.transData.transform((0, value))[1] for value in (min(line.get_ydata()), max(line.get_ydata()))
        )
        box = axes.get_window_extent()
        assert box.y0 + 2 < low <= high < box.y1 - 2
    assert len({line.get_linewidth() for line in axes.lines}) == 2
    extremes = beside.texts[0].get_text().splitlines()
    assert extremes[1].startswith(f"{10 + many}  Chrys")
    assert extremes.count("the smallest of train:") == 1


PUBLISHED = {"MobileOne_S0": (71.4, 224), "FasterNet_T0": (71.9, 224), "RepVGG_A0": (72.41, 224), "D2se": (71.5, 320)}


def latencies(*sizes: int) -> list[dict]:
    ways = itertools.product(PUBLISHED, ("fused", "int8"), ("onnxruntime", "openvino-bf16"), (1, 2), sizes)
    keys = ("model", "form", "runtime", "threads", "px")
    return [{**dict(zip(keys, way)), "median": 5 + index % 7} for index, way in enumerate(ways)]


def test_an_accuracy_stands_beside_latencies_of_its_size_only():
    found = drawn_latencies(latencies(160, 224, 320), PUBLISHED)
    assert {(row["model"], row["px"]) for row in found} == {(name, px) for name, (_, px) in PUBLISHED.items()}
    assert {row["threads"] for row in found} == {1}
    assert drawn_latencies(latencies(160), PUBLISHED) == []
    assert drawn_latencies([{**row, "model": "flowers.onnx"} for row in latencies(224)], PUBLISHED) == []


@pytest.mark.parametrize("spread", [1, 50])
def test_latency(spread, tmp_path, drawn, kept):
    rows = [{**row, "median": row["median"] * (spread if row["form"] == "fused" else 1)} for row in latencies(224, 320)]
    draw_latency(drawn_latencies(rows, PUBLISHED), PUBLISHED, "a machine", tmp_path / "bench.png")
    drawn("bench.png", (900, 520))
    check_texts(kept[0])
    axes, (legend,) = kept[0].axes[0], kept[0].legends
    assert not legend.get_window_extent().overlaps(axes.get_window_extent()), "no entry among the data"
    assert {text.get_text() for text in axes.texts} == {"MobileOne_S0", "FasterNet_T0", "RepVGG_A0", "D2se, 320 px"}
    assert "224 × 224 px (or as named)" in axes.get_xlabel()
    assert all(text.get_window_extent().x1 <= axes.get_window_extent().x1 for text in axes.texts)


@pytest.mark.parametrize("count", [1, 2, 20, LARGEST_SHEET + 5])
def test_sheet_has_a_cell_for_each_image(count, tmp_path, drawn):
    pictures = [np.full((8 + index % 5, 9, 3), (250, 0, 250), np.uint8) for index in range(count)]
    captions = [[f"été {i}", "b"] for i in range(count)]
    assert draw_sheet(pictures, captions, "t", tmp_path / "s.png") == min(count, LARGEST_SHEET)
    purple = (drawn("s.png") == (250, 0, 250)).all(axis=2)
    assert _cells(purple) == min(count, LARGEST_SHEET)


def _cells(mask: np.ndarray) -> int:
    """How many patches there are, which stand in rows that no other row touches."""

    def starts(line: np.ndarray) -> np.ndarray:
        return np.flatnonzero(np.diff(np.concatenate([[False], line]).astype(int)) == 1)

    rows = np.split(mask, starts(mask.any(axis=1)))[1:]
    return sum(len(starts(row.any(axis=0))) for row in rows)


SHAPES = [(40, 60), (1, 1), (1, 400), (400, 1), (400, 300)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("count", [0, 5, 20])
def test_a_long_name_leaves_the_percentage_whole(shape, count, tmp_path, drawn, kept):
    scores = [round(0.9876 / (index + 1), 4) for index in range(count)]
    title = "IMG_20240101_portrait_of_a_flower_in_the_garden_" * 4 + "0001.jpg"
    draw_prediction(
        np.full((*shape, 3), (250, 0, 250), np.uint8), (LONG * 4)[:count], scores, title, tmp_path / "p.png"
    )
    purple = (drawn("p.png") == (250, 0, 250)).all(axis=2)
    assert purple.any(axis=1).sum() >= 2, "a line of pixels is to be seen"
    assert purple.any(axis=0).sum() >= 2
    check_texts(kept[0])
    said = [text.get_text() for text in kept[0].axes[1].texts]
    assert said[1::2] == [f"{score:.1%}" for score in scores]
    assert said[:5:2] == ([] if count else ["no class reaches its threshold"]) or all(
        "…" in name for name in said[:5:2]
    )
    assert kept[0].axes[0].texts[0].get_text().endswith("0001.jpg")


@pytest.mark.parametrize("count", [1, 7, LARGEST_SHEET])
def test_captions_of_a_sheet_stay_in_their_cells(count, tmp_path, kept):
    pictures = [np.zeros((*SHAPES[index % len(SHAPES)], 3), np.uint8) for index in range(count)]
    captions = [
        [f"IMG_20240101_123456_portrait_{index:04}.jpg", (LONG[index % len(LONG)], "100.0%")] for index in range(count)
    ]
    draw_sheet(pictures, captions, "predictions " * 40, tmp_path / "s.png")
    check_texts(kept[0])
    axes = kept[0].axes[0]
    boxes = {text.get_text(): text.get_window_extent() for text in axes.texts[1:]}
    assert len(boxes) == count, "the ends of long names of files are there"
    for words, box in boxes.items():
        assert words.endswith("100.0%")
        assert box.width <= CELL
    images = [image.get_window_extent() for image in axes.images]
    assert not any(
        box.y0 + 2 < image.y1 and image.y0 < box.y1 and image.x0 < box.x1 and box.x0 < image.x1
        for box in boxes.values()
        for image in images
    ), "no caption lies over an image"


def test_an_activation_map_states_its_grid(tmp_path, drawn, kept):
    random = np.random.default_rng(0)
    features, weight = random.normal(size=(6, 3, 4)), random.normal(size=6)
    evidence = activation_map(features, weight)
    assert evidence.shape == (3, 4)
    assert evidence.mean() == pytest.approx(features.mean(axis=(1, 2)) @ weight)
    draw_activation_map(np.zeros((30, 40, 3), np.uint8), evidence, LONG[0] * 3, 0.9, EXACT, tmp_path / "a.png")
    drawn("a.png", (820, 440))
    check_texts(kept[0])
    name, grid = (text.get_text() for text in kept[0].texts)
    assert name.endswith("  90.0%")
    assert "4×3 cells" in grid


def test_normalisation_is_undone():
    pixels = np.random.default_rng(0).integers(0, 256, (2, 5, 6, 3), np.uint8)
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    images = ((pixels / 255 - mean) / std).transpose(0, 3, 1, 2).astype("float32")
    assert (to_pixels(images, mean, std) == pixels).all()


def test_text_without_a_font_is_said_once(monkeypatch, caplog):
    monkeypatch.setattr(logging.getLogger("ppcls_ext"), "propagate", True)
    figures._say_no_font.cache_clear()
    assert drawable("été", "class 3") == "été"
    assert drawable("a\x1b[31m\nb", "class 3") == "a [31m b"
    assert not caplog.records
    assert drawable("a\u0f40", "class 3") == "class 3"
    assert drawable("\u0f41", "class 4") == "class 4"
    (record,) = caplog.records
    assert record.getMessage().startswith("no font has all characters of some names, which are drawn as ")
    assert drawable("\x07", "class 3") == "class 3"
    assert drawable("$a$", "class 3") == "$a$"
    assert class_labels(["x", "", "\u0f40"], 4) == ["x", "class 1", "class 2", "class 3"]
    assert font_families()[0] == "DejaVu Sans"


@pytest.mark.parametrize("size", [7.5, 9, 11])
@pytest.mark.parametrize("text", [*LONG, "", "a"])
def test_a_text_is_as_wide_as_it_is_drawn_and_fits(text, size, tmp_path):
    with figure(tmp_path / "x.png", 900, 100) as drawn:
        extent = drawn.text(0, 0.5, text, fontsize=size).get_window_extent()
        assert text_width(text, size) == pytest.approx(extent.width, abs=1)
        for width in (20, 100, 100_000):
            short = fitted(text, width, size)
            assert drawn.text(0, 0.5, short, fontsize=size).get_window_extent().width <= width + 1
            assert short == text or (short.count("…") == 1 and text.startswith(short.split("…")[0]))
            assert short == text or width == 20 or text_width(short, size) > width - 25, (
                "no more is cut off than must be"
            )


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
    sources = [f"{index}/cat.png" for index in range(60_000)]
    start = time.process_time()
    saved = SavedImages(tmp_path, sources)
    for source in sources:
        saved.add(source, PICTURE[:4, :4], RESULT)
    saved.finish()
    assert time.process_time() - start < 60
    assert len({path.name for path in saved.written}) == 60_000 + 938
    assert saved.written[-1].name == "sheet-938.png"


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
    class Unread(str):
        def isprintable(self) -> bool:
            raise AssertionError("the whole name is looked through")

        __iter__ = isprintable

    assert drawable(Unread("r" * 5_000), "class 3") == "r" * 200
