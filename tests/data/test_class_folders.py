"""Class folders → lists: what is found, split, left out and said."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ppcls_ext.data.class_folders import make_lists
from ppcls_ext.data.lists import read_class_names, read_list
from ppcls_ext.errors import PpclsExtError


def picture(path: Path, seed: int = 0, **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng([seed, *path.as_posix().encode()[-40:]]).integers(0, 255, (8, 8, 3), "uint8")
    Image.fromarray(pixels).save(path, **options)
    return path


@pytest.fixture
def folder(tmp_path) -> Path:
    """Ten pictures of each of three classes, some in folders below."""
    root = tmp_path / "my data"
    for name in ("rose", "Gänseblümchen", "菊 花"):
        for index in range(10):
            below = "below/deeper/" if index % 3 == 0 else ""
            picture(root / name / f"{below}no {index}.png")
    return root


def read(made) -> dict[str, list]:
    return {
        part: read_list(made.folder / f"{part}_list.txt", made.root, len(made.classes)) for part in ("train", "val")
    }


def test_classes_names_and_a_stratified_split(folder, tmp_path):
    made = make_lists(folder, tmp_path / "lists")
    assert made.classes == ("Gänseblümchen", "rose", "菊 花")
    assert (made.train, made.val, made.left_out) == ([8] * 3, [2] * 3, [])
    assert read_class_names(made.folder / "label_list.txt") == made.classes
    entries = read(made)
    for part in entries.values():
        assert all(made.classes[entry.label] in entry.path.relative_to(folder).parts[0] for entry in part)
    paths = [entry.path for part in entries.values() for entry in part]
    assert sorted(paths) == sorted(folder.rglob("*.png")), "each picture once"
    assert made.lines() == ["3 classes, 24 images to train on, 6 to evaluate on"]
    assert not (made.folder / "left_out.txt").exists()


def test_the_seed_decides_the_split(folder, tmp_path):
    texts = {}
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        make_lists(folder, tmp_path / name, seed=seed)
        texts[name] = (tmp_path / name / "val_list.txt").read_text(encoding="utf-8")
    assert texts["a"] == texts["b"] != texts["c"]


@pytest.mark.parametrize(("share", "val"), [(0.01, 1), (0.5, 5), (0.99, 9)])
def test_each_class_is_in_both_lists(folder, tmp_path, share, val):
    assert make_lists(folder, tmp_path / "lists", share).val == [val] * 3


@pytest.mark.parametrize("name", ["val", "valid", "validation"])
def test_a_split_that_is_there_is_taken(folder, tmp_path, name):
    root = tmp_path / "split"
    root.mkdir()
    folder.rename(root / "train")
    picture(root / name / "rose" / "x.png")
    picture(root / "test" / "rose" / "y.png")
    made = make_lists(root, tmp_path / "lists")
    assert (made.train, made.val) == ([10] * 3, [0, 1, 0])
    assert (made.test, made.left_out) == ([0, 1, 0], [])
    assert made.lines()[2] == "no image of 'Gänseblümchen' and 1 more to evaluate on"
    picture(root / name / "tulip" / "x.png")
    with pytest.raises(PpclsExtError, match=r"holds the class 'tulip', and .*train has no images of it"):
        make_lists(root, tmp_path / "lists")


def test_a_split_beside_classes_is_ambiguous(folder, tmp_path):
    for part in ("train", "val"):
        picture(folder / part / "rose" / "1.png")
    with pytest.raises(PpclsExtError, match="holds train/ and val/, and Gänseblümchen/ too"):
        make_lists(folder, tmp_path / "lists")


@pytest.mark.parametrize(
    ("names", "order"),
    [(("train", "val", "bus"), ("bus", "train", "val")), (("10", "9", "0"), ("0", "9", "10"))],
    ids=["train and val may be classes", "numbers"],
)
def test_names_and_order_of_classes(tmp_path, names, order):
    for name in names:
        for index in range(2):
            picture(tmp_path / "data" / name / f"{index}.png")
    assert make_lists(tmp_path / "data", tmp_path / "lists").classes == order


@pytest.mark.parametrize("name", ["a.JPG", "a.webp", "a.bmp", "a.tif", "a.gif", "a.jp2", "without_suffix"])
def test_any_kind_of_image(folder, tmp_path, name):
    kind = "PNG" if "." not in name else None
    picture(folder / "rose" / name, format=kind)
    assert sum(make_lists(folder, tmp_path / "lists").train) == 25


@pytest.mark.parametrize("mode", ["L", "1", "P", "RGBA", "I;16", "CMYK"])
def test_any_mode(folder, tmp_path, mode):
    path = folder / "rose" / ("a.jpg" if mode == "CMYK" else "a.png")
    if mode == "I;16":
        Image.fromarray(np.arange(64, dtype="uint16").reshape(8, 8) * 999).save(path)
    else:
        Image.new("RGB", (8, 8), (10, 200, 30)).convert(mode).save(path)
    assert sum(make_lists(folder, tmp_path / "lists").train) == 25


def test_what_cannot_be_used_is_named(folder, tmp_path):
    good = picture(folder / "rose" / "good.jpg")
    cut = folder / "rose" / "cut.jpg"
    cut.write_bytes(good.read_bytes()[:-40])
    (folder / "rose" / "empty.png").touch()
    (folder / "rose" / "Thumbs.db").write_bytes(b"thumbs")
    (folder / "rose" / ".hidden").mkdir()
    (folder / "rose" / "copy.jpg").write_bytes(good.read_bytes())
    twin = picture(folder / "rose" / "twin.png")
    (folder / "菊 花" / "also.png").write_bytes(twin.read_bytes())
    picture(folder / "stray.png")
    (folder / "nothing").mkdir()
    (folder / "rose" / "loop").symlink_to(folder / "rose")
    (folder / "rose" / "gone.png").symlink_to(folder / "nowhere")
    picture(folder / "rose" / "two\nlines.png")
    odd = os.fsencode(folder / "rose") + b"/\xff.png"
    os.link(os.fsencode(good), odd)
    made = make_lists(folder, tmp_path / "lists")
    assert {item.path.name: item.kind for item in made.left_out} == {
        "cut.jpg": "unreadable",
        "empty.png": "unreadable",
        "Thumbs.db": "hidden",
        ".hidden": "hidden",
        "good.jpg": "duplicate",
        "twin.png": "in several classes",
        "also.png": "in several classes",
        "stray.png": "outside the class folders",
        "nothing": "empty folder",
        "loop": "repeated folder",
        "gone.png": "not a file",
        "two\nlines.png": "oddly named",
        os.fsdecode(b"\xff.png"): "oddly named",
    }
    assert sum(made.train) + sum(made.val) == 31, "one of the copies stays"
    assert made.lines()[1].startswith("left out: 2 hidden, 2 in several classes, 2 oddly named, 2 unreadable, 1 dup")
    text = (made.folder / "left_out.txt").read_text(encoding="utf-8")
    assert "cut.jpg\tunreadable\tdamaged image: " in text
    assert "\\udcff.png" in text


def test_blanks_at_the_start_of_a_name(tmp_path):
    for name in (" first", "\ufeffsecond"):
        for index in range(2):
            picture(tmp_path / "data" / name / f"{index}.png")
    made = make_lists(tmp_path / "data", tmp_path / "lists")
    assert [len(part) for part in read(made).values()] == [2, 2]


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda root: None, "no folder of images"),
        (lambda root: picture(root / "a.png"), "images of 0 classes, at least 2 are needed.*a.png: it lies in no"),
        (lambda root: picture(root / "a" / "a.png"), "images of 1 classes, at least 2 are needed"),
        (lambda root: [picture(root / name / "a.png") for name in "ab"], "every class needs two at least"),
    ],
)
def test_folders_without_classes(tmp_path, make, said):
    make(tmp_path / "data")
    with pytest.raises(PpclsExtError, match=said):
        make_lists(tmp_path / "data", tmp_path / "lists")
    assert not (tmp_path / "lists").exists()


@pytest.mark.parametrize("share", [0, 1, -0.2, float("nan")])
def test_shares_that_leave_nothing(folder, tmp_path, share):
    with pytest.raises(PpclsExtError, match="more than 0, less than 1"):
        make_lists(folder, tmp_path / "lists", share)
