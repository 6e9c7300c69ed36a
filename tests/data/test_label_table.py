"""A table of labels → multi-label lists: what is read, divided, left out and said."""

from __future__ import annotations

import itertools
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ppcls_ext.commands import datasets, train
from ppcls_ext.data.class_folders import kept_lists
from ppcls_ext.data.label_table import divide, make_label_lists, read_label_table
from ppcls_ext.data.lists import MULTI_LABEL, read_class_names, read_list
from ppcls_ext.errors import PpclsExtError
from tests.data.test_class_folders import picture

CLASSES = ("cat", "dog", "a, b")


@pytest.fixture
def photos(tmp_path) -> Path:
    """Twenty images, some of them in a folder below, with the table labels.csv beside them."""
    root = tmp_path / "my photos"
    rows = []
    for index in range(20):
        name = f"{'below/' if index % 3 else ''}no {index}.png"
        picture(root / name)
        rows.append(f"{name},{index % 2},{int(index % 4 < 2)},{int(index in (3, 8))}\n")
    (root / "labels.csv").write_text('image,cat,dog,"a, b"\n' + "".join(rows), encoding="utf-8")
    return root


def make(photos, tmp_path, **options):
    return make_label_lists(photos, photos / "labels.csv", tmp_path / "lists", **options)


def rewrite(photos, old, new, count=-1):
    text = (photos / "labels.csv").read_text(encoding="utf-8")
    assert old in text
    (photos / "labels.csv").write_text(text.replace(old, new, count), encoding="utf-8")


def entries(made):
    return {
        name: read_list(made.folder / f"{name}_list.txt", made.root, len(made.classes), task=MULTI_LABEL)
        for name in ("train", "val")
    }


def test_lists_names_and_a_stratified_division(photos, tmp_path):
    made = make(photos, tmp_path)
    assert made.classes == read_class_names(made.folder / "label_list.txt") == CLASSES
    assert made.left_out == []
    assert made.images == (16, 4)
    assert made.lines() == ["3 classes, 16 images to train on, 4 to evaluate on"]
    assert (made.train, made.val) == ([8, 8, 1], [2, 2, 1])
    read = entries(made)
    assert sorted(entry.path for images in read.values() for entry in images) == sorted(photos.rglob("*.png"))
    for entry in itertools.chain(*read.values()):
        index = int(entry.path.stem.split()[1])
        assert entry.label == (index % 2, int(index % 4 < 2), int(index in (3, 8)))
    kept = kept_lists(photos, made.folder, MULTI_LABEL)
    assert kept._replace(root=made.root) == made


def test_the_seed_decides_the_division(photos, tmp_path):
    texts = {}
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        made = make_label_lists(photos, photos / "labels.csv", tmp_path / name, seed=seed)
        texts[name] = (made.folder / "val_list.txt").read_text(encoding="utf-8")
        header, *rows = (photos / "labels.csv").read_text(encoding="utf-8").splitlines()
        (photos / "labels.csv").write_text("\n".join([header, *rows[::-1]]), encoding="utf-8")
    assert texts["a"] == texts["b"] != texts["c"], "the order of the table's lines does not matter"


@pytest.mark.parametrize("mark", [",", ";", "\t"])
@pytest.mark.parametrize("start", ["", "\ufeff"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r", "\n\n"])
def test_kinds_of_tables(tmp_path, mark, start, end):
    lines = [["image", "cat", '"a,b;c"'], ["x y.png", "1", " 0"], ['"q""q.png"', "0 ", "1"]]
    text = start + "".join(mark.join(line) + end for line in lines)
    (tmp_path / "t.csv").write_bytes(text.encode())
    read = read_label_table(tmp_path / "t.csv")
    assert read.classes == ("cat", "a,b;c")
    assert read.rows == (("x y.png", (1, 0)), ('q"q.png', (0, 1)))


def test_marks_inside_the_names_of_classes(tmp_path):
    (tmp_path / "t.csv").write_text("image\tcat, big\tdog, small\tone, two, three; four\na.png\t1\t1\t1\n")
    assert read_label_table(tmp_path / "t.csv").classes == ("cat, big", "dog, small", "one, two, three; four")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "^no table of labels .*t.csv: expected a CSV file with"),
        ("", r":1: .*empty"),
        ("\n\n", r":1: .*empty"),
        ("image,cat,dog\n", ":1: the table names no image"),
        ("image\na.png\n", ":1: the first line names 0 classes"),
        ("image,cat\na.png,1\n", ":1: the first line names 1 classes, at least 2 are needed"),
        ("image,cat,\na.png,1,1\n", ":1: column 3 is headed '': expected a class name"),
        ('image,cat,"a\nb"\na.png,1,1\n', r":2: column 3 is headed 'a\\nb': expected a class name"),
        ("image,cat,cat\na.png,1,1\n", ":1: two columns are headed 'cat'"),
        ("a.png,1,0\nb.png,0,1\n", ":1: column 2 is headed '1', no class name: expected a CSV"),
        ("image,cat,dog\na.png,1\n", ":2: 1 labels, and the first line names 2 classes"),
        ("image,cat,dog\na.png,1,1,0\n", ":2: 3 labels, and"),
        ("image,cat,dog\n\na.png;1;0\n", ":3: 0 labels, and"),
        ("image,cat,dog\na.png,1,0\nb.png,1,2\n", ":3: '2' for the class 'dog': expected 0 or 1"),
        ("image,cat,dog\na.png,1,\n", ":2: '' for the class 'dog'"),
        ("image,cat,dog\na.png,1.0,1\n", ":2: '1.0' for the class 'cat'"),
        ("image,cat,dog\na.png,yes,1\n", ":2: 'yes' for the class 'cat'"),
        ("image,cat,dog\n,1,1\n", ":2: the first field is empty"),
        ("image,cat,dog\na.png,1,0\nb.png,1,0\n", ": no image shows the class 'dog': its column has no 1"),
        ('image,cat,dog\n"a.png,1,0\n', ":2: not CSV: "),
        ("image,cat,dog\n" + "a" * 200_000 + ",1,1\n", ":2: not CSV: "),
        (b"image,cat,d\xf6g\na.png,1,1\n", ":1: not UTF-8"),
        ("image,cat,dog\n".encode("utf-16"), ":1: not UTF-8"),
    ],
)
def test_faults_of_tables(tmp_path, text, message):
    path = tmp_path / "t.csv"
    if text is not None:
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(PpclsExtError, match=message) as caught:
        read_label_table(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


@given(st.binary(max_size=80) | st.text('imagectdo01.\n\r,;\t"', max_size=80).map(str.encode))
@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_other_exception(tmp_path, content):
    path = tmp_path / "t.csv"
    path.write_bytes(content)
    try:
        read = read_label_table(path)
    except PpclsExtError:
        return
    assert all(len(labels) == len(read.classes) for _, labels in read.rows)


def test_files_that_the_folder_lacks_or_has_beyond(photos, tmp_path):
    picture(photos / "new.png")
    (photos / "notes.txt").write_text("no image")
    made = make(photos, tmp_path)
    assert [(item.path.name, item.kind) for item in made.left_out] == [("new.png", "not in the table")]
    assert made.lines()[1] == f"left out: 1 not in the table; {made.folder / 'left_out.txt'} names them"
    (photos / "no 0.png").unlink()
    with pytest.raises(PpclsExtError, match=r"labels.csv:2: no image file 'no 0.png' below .* \(1 of 20 are missing\)"):
        make(photos, tmp_path)


@pytest.mark.parametrize("name", ["../no 0.png", "/etc/passwd", "below/../../x.png", "below/.."])
def test_paths_outside_the_folder(photos, tmp_path, name):
    rewrite(photos, "no 0.png", name, 1)
    message = r"labels.csv:2: .*(lies outside .*: expected a path below it|no image file)"
    with pytest.raises(PpclsExtError, match=message):
        make(photos, tmp_path)


def test_doubled_lines(photos, tmp_path):
    rewrite(photos, "below/no 1.png", "./no 0.png", 1)
    with pytest.raises(PpclsExtError, match=r"labels.csv:3: './no 0.png' stands on line 2 too: expected one line for"):
        make(photos, tmp_path)


def test_unreadable_images_and_identical_ones(photos, tmp_path):
    (photos / "no 0.png").write_bytes(b"")
    (photos / "below/no 1.png").write_bytes((photos / "below/no 1.png").read_bytes()[:60])
    shutil.copy(photos / "below/no 4.png", photos / "no 12.png")  # the same labels
    shutil.copy(photos / "below/no 5.png", photos / "no 6.png")  # others
    made = make(photos, tmp_path)
    kinds = {item.path.name: item.kind for item in made.left_out}
    assert kinds == {
        "no 0.png": "unreadable",
        "no 1.png": "unreadable",
        "no 12.png": "duplicate",
        "no 5.png": "labelled differently",
        "no 6.png": "labelled differently",
    }
    assert sum(made.images) == 15
    assert "the same bytes as" in (made.folder / "left_out.txt").read_text()
    for index in (3, 8):
        next(photos.rglob(f"no {index}.png")).write_bytes(b"")
    with pytest.raises(PpclsExtError, match=r"no usable image shows the class 'a, b': .*; .*no \d.png: "):
        make(photos, tmp_path)


def test_a_class_of_one_image_is_trained_on_and_said(photos, tmp_path):
    rewrite(photos, "no 8.png,0,1,1", "no 8.png,0,1,0")
    made = make(photos, tmp_path)
    assert (made.train[2], made.val[2]) == (1, 0)
    assert made.lines()[1:] == ["a single image of 'a, b'"]


def test_images_of_no_class_are_divided_too(photos, tmp_path):
    for index in range(20, 40):
        picture(photos / f"no {index}.png")
    with (photos / "labels.csv").open("a", encoding="utf-8") as table:
        table.write("".join(f"no {index}.png,0,0,0\n" for index in range(20, 40)))
    made = make(photos, tmp_path)
    empty = [sum(not any(entry.label) for entry in images) for images in entries(made).values()]
    assert empty == [16 + 4, 4 + 1], "the five of before and the new ones: a fifth of all is evaluated on"


def test_nothing_to_evaluate_on(tmp_path):
    for name in "ab":
        picture(tmp_path / f"{name}.png")
    (tmp_path / "labels.csv").write_text("image,cat,dog\na.png,1,0\nb.png,0,1\n")
    with pytest.raises(PpclsExtError, match=r"leaves no image of any class to evaluate on: a class needs two at least"):
        make_label_lists(tmp_path, tmp_path / "labels.csv", tmp_path / "lists")
    with pytest.raises(PpclsExtError, match="the share of images to evaluate on is 1"):
        make_label_lists(tmp_path, tmp_path / "labels.csv", tmp_path / "lists", 1)


def is_whole(labels, parts) -> bool:
    """Each class with two images is in both parts, each with one in that to train on."""
    rows = np.array(labels)
    counts, val = rows.sum(0), rows[np.array(parts, bool)].sum(0)
    return bool(np.all(np.where(counts > 1, (val > 0) & (val < counts), val == 0)))


def test_each_class_is_in_both_parts_where_possible():
    """Against all divisions of small tables."""
    rng = np.random.default_rng(0)
    possible = 0
    for trial in range(300):
        labels = [tuple(map(int, row)) for row in rng.random((int(rng.integers(3, 8)), 4)) < rng.uniform(0.2, 0.7)]
        exists = any(is_whole(labels, parts) for parts in itertools.product((0, 1), repeat=len(labels)))
        found = divide(labels, 0.3, trial)
        assert is_whole(labels, found) == exists, labels
        possible += exists
    assert 100 < possible < 290


def test_shares_of_common_and_rare_classes():
    rng = np.random.default_rng(1)
    rates = np.array([0.5, 0.3, 0.1, 0.05, 0.02])
    labels = [tuple(map(int, row)) for row in rng.random((2000, 5)) < rates]
    parts = np.array(divide(labels, 0.2))
    shares = np.array(labels)[parts].sum(0) / np.array(labels).sum(0)
    np.testing.assert_allclose(shares, 0.2, atol=0.02)
    assert abs(parts.mean() - 0.2) < 0.02


def test_the_command_make_lists(photos, tmp_path, capsys):
    datasets.lists([str(photos), "--labels", str(photos / "labels.csv"), "--output", str(tmp_path / "lists")])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "3 classes, 16 images to train on, 4 to evaluate on"
    assert lines[-1] == f"in the YAML: class_num: 3, image_root: {photos}"
    assert len(read_list(tmp_path / "lists" / "val_list.txt", photos, 3, task=MULTI_LABEL)) == 4


def test_labels_need_their_images(capsys):
    with pytest.raises(SystemExit):
        train.main(["-c", "MobileOne_S0", "--labels", "labels.csv"])
    assert "expected --data FOLDER with --labels, in which the images are" in capsys.readouterr().err
