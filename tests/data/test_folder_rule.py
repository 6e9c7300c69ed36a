"""One rule for every folder that is read: which files are images, and what is left out and said."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ppcls_ext.config.lists import images_in
from ppcls_ext.config.settings import RunSettings
from ppcls_ext.data.class_folders import find_labelled_images, make_lists
from ppcls_ext.data.image_files import FORMATS, find_images, images_below
from ppcls_ext.data.lists import read_list
from ppcls_ext.errors import PpclsExtError
from ppcls_ext.training.inference import images_to_infer

IMAGES = ("a.JPG", "b.jfif", "c.jpe", "d.ppm", "e.pgm", "f", "g.png", *(("h.avif",) if "AVIF" in FORMATS else ()))
KINDS = {".jfif": "JPEG", ".jpe": "JPEG", "": "PNG"}
OTHERS = {
    "._a.JPG": "hidden",
    ".ipynb_checkpoints": "hidden",
    "__MACOSX": "hidden",
    "Thumbs.db": "hidden",
    "desktop.ini": "hidden",
    "notes.txt": "not an image",
    "README": "not an image",
    "gone.png": "not a file",
    "loop": "repeated folder",
}


def image(path: Path, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng([seed, *str(path).encode()[-30:]]).integers(0, 255, (8, 8, 3), "uint8")
    picture = Image.fromarray(pixels)
    (picture.convert("L") if path.suffix == ".pgm" else picture).save(path, format=KINDS.get(path.suffix.lower()))
    return path


def fill(folder: Path) -> list[Path]:
    """Images of every kind in `folder` and below it, and what is none; returns the images, sorted."""
    images = [image(folder / name) for name in IMAGES] + [image(folder / "below" / "deeper" / "z.png")]
    for name in (".ipynb_checkpoints", "__MACOSX"):
        image(folder / name / "copy.png")
    (folder / "._a.JPG").write_bytes(b"\0\5\x16\7")
    for name in ("Thumbs.db", "desktop.ini", "notes.txt", "README"):
        (folder / name).write_text("no image")
    (folder / "gone.png").symlink_to(folder / "nowhere.png")
    (folder / "loop").symlink_to(folder)
    return sorted(images)


def test_what_is_an_image_and_what_is_left_out(tmp_path):
    images = fill(tmp_path)
    found, left_out = images_below(tmp_path)
    assert found == images
    assert {item.path.name: item.kind for item in left_out} == OTHERS


def test_every_reader_of_a_folder_finds_the_same(tmp_path, caplog):
    caplog.set_level(logging.INFO, "ppcls_ext")
    logging.getLogger("ppcls_ext").propagate = True
    images = fill(tmp_path / "data" / "rose")
    image(tmp_path / "data" / "tulip" / "1.png")
    image(tmp_path / "data" / "tulip" / "2.png")
    rose = str(tmp_path / "data" / "rose")
    assert find_images([rose]) == find_images([f"{rose}/*"]) == images
    assert images_to_infer(rose, None) == [str(path) for path in images]
    assert images_in(rose, RunSettings({})) == images
    assert find_labelled_images(tmp_path / "data")[1]["rose"] == images
    made = make_lists(tmp_path / "data", tmp_path / "lists")
    listed = [
        entry.path for part in ("train", "val") for entry in read_list(made.folder / f"{part}_list.txt", made.root, 2)
    ]
    assert sorted(path for path in listed if "rose" in path.parts) == images
    said = "left out: 5 hidden, 2 not an image, 1 not a file, 1 repeated folder"
    assert [record.getMessage() for record in caplog.records if rose in record.getMessage()] == [
        f"{rose}: {said}",
        f"{rose}/*: {said}".replace("5 hidden", "3 hidden"),  # a pattern matches no name with a dot
        f"{rose}: {said}",
        f"{rose}: {said}",
    ]
    assert made.lines()[1].startswith(said)


def test_a_folder_linked_from_elsewhere_counts_once(tmp_path):
    one = image(tmp_path / "photos" / "a.png")
    (tmp_path / "photos" / "again").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "photos" / "twice").symlink_to(tmp_path / "elsewhere")
    other = image(tmp_path / "elsewhere" / "b.png")
    found, left_out = images_below(tmp_path / "photos")
    assert found == [one, tmp_path / "photos" / "again" / other.name]
    assert [item.kind for item in left_out] == ["repeated folder"]


def test_a_folder_without_images_says_what_it_holds(tmp_path):
    (tmp_path / "notes.txt").touch()
    with pytest.raises(PpclsExtError, match=r"the folder holds no image \(1 not an image\)"):
        find_images([str(tmp_path)])


def test_a_name_that_no_list_can_hold_is_predicted_all_the_same(tmp_path):
    name = os.fsencode(image(tmp_path / "a.png").parent) + b"/\xff.png"
    os.rename(tmp_path / "a.png", name)
    assert find_images([str(tmp_path)]) == [Path(os.fsdecode(name))]


def classes(root: Path, *names: str, count: int = 3) -> None:
    for name in names:
        for index in range(count):
            image(root / name / f"{index}.png")


@pytest.mark.parametrize(("train", "test"), [("train", "test"), ("Train", "Test"), ("Training", "Testing")])
def test_train_and_test_are_a_split(tmp_path, train, test):
    classes(tmp_path / "data" / train, "rose", "tulip", count=5)
    classes(tmp_path / "data" / test, "rose")
    made = make_lists(tmp_path / "data", tmp_path / "lists")
    assert (made.classes, made.train, made.val, made.test) == (("rose", "tulip"), [4, 4], [1, 1], [3, 0])
    assert f"3 images are kept for the end: ppcls-ext eval RUN --data {tmp_path / 'data'}" in made.lines()
    kept = read_list(made.folder / "test_list.txt", made.root, 2)
    assert {entry.path.parents[1].name for entry in kept} == {test}
    folder, files, _ = find_labelled_images(tmp_path / "data")
    assert (folder.name, len(files["rose"])) == (test, 3)


@pytest.mark.parametrize("val", ["Val", "VALID", "validation"])
def test_parts_in_any_case(tmp_path, val):
    classes(tmp_path / "data" / "Train", "rose", "tulip")
    classes(tmp_path / "data" / val, "rose", "tulip", count=1)
    made = make_lists(tmp_path / "data", tmp_path / "lists")
    assert (made.classes, made.train, made.val, list(made.test)) == (("rose", "tulip"), [3, 3], [1, 1], [])
    assert not (made.folder / "test_list.txt").exists()


def test_train_alone_is_a_split_too(tmp_path):
    classes(tmp_path / "data" / "train", "rose", "tulip", count=5)
    assert make_lists(tmp_path / "data", tmp_path / "lists").classes == ("rose", "tulip")


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        (("train", "Train", "val"), "holds Train/ and train/, and train/ too"),
        (("test", "val"), "holds val/, and no train/ to learn from|holds test/, and no train/ to learn from"),
    ],
)
def test_a_split_that_is_unclear(tmp_path, parts, said):
    for part in parts:
        classes(tmp_path / "data" / part, "rose", "tulip")
    with pytest.raises(PpclsExtError, match=said):
        make_lists(tmp_path / "data", tmp_path / "lists")


def test_images_right_in_train_and_test_are_no_classes(tmp_path):
    classes(tmp_path / "data", "train", "test")
    with pytest.raises(PpclsExtError, match="is a part of a split, and holds no class folders"):
        make_lists(tmp_path / "data", tmp_path / "lists")


def test_a_class_of_one_image_is_mentioned(tmp_path):
    classes(tmp_path / "data", "rose", "tulip")
    classes(tmp_path / "data", "daisy", "iris", count=1)
    assert "a single image of 'daisy' and 1 more" in make_lists(tmp_path / "data", tmp_path / "lists").lines()


def test_classes_of_a_run(tmp_path):
    """A partial folder keeps the labels of the run."""
    classes(tmp_path / "data", "tulip", "rose")
    names = ("daisy", "rose", "tulip")
    made = make_lists(tmp_path / "data", tmp_path / "lists", classes=names)
    assert (made.classes, made.train) == (names, [0, 2, 2])
    classes(tmp_path / "data", "poppy")
    with pytest.raises(PpclsExtError, match=r"poppy is the folder of no class: expected daisy, rose, tulip"):
        make_lists(tmp_path / "data", tmp_path / "lists", classes=names)
