"""The sample dataset, made for real."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest
from sklearn.datasets import load_digits

from ppcls_ext.commands.datasets import make_digits as main
from ppcls_ext.data.digits import LABEL_LIST, LISTS, make
from ppcls_ext.data.image_files import check_images
from ppcls_ext.data.lists import overlap, read_list
from ppcls_ext.errors import PpclsExtError

TOOL = Path(__file__).resolve().parents[2] / "tools" / "make_sample_dataset.py"


def lists(folder):
    return [read_list(folder / name, folder, 10) for name in LISTS]


def contents(folder):
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    output = tmp_path_factory.mktemp("made") / "digits"
    assert make(output, size=16)
    return output


def test_whole_dataset(dataset):
    train, val = lists(dataset)
    assert (len(train), len(val)) == (1297, 500)
    assert len({entry.path for entry in [*train, *val]}) == 1797 == len(list((dataset / "images").iterdir()))
    assert overlap(train, val) == []
    assert check_images([*train, *val]) == []
    share = Counter(entry.label for entry in val)
    everything = Counter(load_digits().target.tolist())
    assert all(abs(share[digit] - everything[digit] * 500 / 1797) < 1 for digit in range(10))
    assert (dataset / LABEL_LIST).read_text() == "".join(f"{digit} {digit}\n" for digit in range(10))


def test_images_are_the_digits(dataset):
    digits = load_digits()
    for entry in lists(dataset)[1][:50]:
        image = cv2.imread(str(entry.path), cv2.IMREAD_UNCHANGED)
        assert image.shape == (16, 16, 3)
        assert image.dtype == np.uint8
        index = int(entry.path.stem.split("_")[1])
        assert digits.target[index] == entry.label
        small = cv2.resize(image, (8, 8), interpolation=cv2.INTER_AREA)[..., 0].ravel()
        assert np.corrcoef(small, digits.images[index].ravel())[0, 1] > 0.97


@pytest.mark.parametrize("limit", [20, 21, 57, 300])
def test_slice_is_stratified(tmp_path, limit):
    make(tmp_path / "d", size=8, limit=limit)
    train, val = lists(tmp_path / "d")
    assert len(train) + len(val) == limit == len(list((tmp_path / "d" / "images").iterdir()))
    for entries in (train, val):
        counts = Counter(entry.label for entry in entries)
        assert len(counts) == 10
        assert max(counts.values()) - min(counts.values()) <= 2


def test_seed_decides_the_split(tmp_path):
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        make(tmp_path / name, size=8, limit=40, seed=seed)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    assert contents(tmp_path / "a") != contents(tmp_path / "c")


def test_second_run_touches_nothing(tmp_path, capsys):
    arguments = ["--output", str(tmp_path / "d"), "--limit", "20", "--size", "8"]
    main(arguments)
    before = {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*")}
    main(arguments)
    assert "complete already: nothing to do" in capsys.readouterr().out
    assert {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*")} == before


def test_other_settings_need_force(tmp_path):
    make(tmp_path / "d", size=8, limit=40)
    before = contents(tmp_path / "d")
    with pytest.raises(PpclsExtError, match=r"made with .*'limit': 40.*, now .*'limit': 20.* --force"):
        make(tmp_path / "d", size=8, limit=20)
    assert contents(tmp_path / "d") == before
    assert make(tmp_path / "d", size=8, limit=20, force=True)
    assert sum(map(len, lists(tmp_path / "d"))) == 20
    assert os.listdir(tmp_path) == ["d"]


@pytest.mark.parametrize("damage", ["train_list.txt", "images", "digits_settings.json"])
def test_damaged_dataset_is_not_called_complete(tmp_path, damage):
    make(tmp_path / "d", size=8, limit=20)
    before = contents(tmp_path / "d")
    victim = tmp_path / "d" / damage
    if victim.is_dir():
        next(victim.iterdir()).unlink()
    else:
        victim.write_text("".join(victim.read_text().splitlines(keepends=True)[:-1]))
    with pytest.raises(PpclsExtError, match="--force"):
        make(tmp_path / "d", size=8, limit=20)
    make(tmp_path / "d", size=8, limit=20, force=True)
    assert contents(tmp_path / "d") == before


@pytest.mark.parametrize("force", [False, True])
def test_foreign_folder_is_never_replaced(tmp_path, force):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(PpclsExtError, match=r"did not make \(thesis.txt\)"):
        make(tmp_path, limit=20, force=force)
    assert contents(tmp_path) == {"thesis.txt": b"mine"}


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("name", ["thesis.txt", "images"])
def test_own_dataset_with_foreign_files_is_never_replaced(tmp_path, force, name):
    output = tmp_path / "d"
    if name == "images":  # the user's own pictures, no dataset of this tool
        (output / "images").mkdir(parents=True)
        (output / "images" / "holiday.jpg").write_bytes(b"mine")
    else:
        make(output, size=8, limit=40)
        (output / name).write_text("mine")
    before = contents(output)
    with pytest.raises(PpclsExtError, match="did not make"):
        make(output, size=8, limit=20, force=force)
    assert contents(output) == before


def test_empty_folder_and_link_are_used(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    make(tmp_path / "link", size=8, limit=20)
    assert (tmp_path / "link").is_symlink()
    assert sum(map(len, lists(tmp_path / "real"))) == 20


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"limit": 19}, "limit 19: expected 20..1797"),
        ({"limit": 1798}, "limit 1798"),
        ({"size": 0}, "size 0 px: expected 8..1024"),
        ({"seed": -1}, "seed -1"),
    ],
)
def test_settings_out_of_range(tmp_path, settings, message):
    with pytest.raises(PpclsExtError, match=message):
        make(tmp_path / "d", **settings)
    assert os.listdir(tmp_path) == []


def test_missing_scikit_learn_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(PpclsExtError, match=r"the package sklearn.* is missing: .*ppcls-ext\[train\]"):
        make(tmp_path / "d")
    assert os.listdir(tmp_path) == []


def test_tool_from_another_folder(tmp_path):
    command = [sys.executable, TOOL, "--limit", "20", "--size", "8"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert sum(map(len, lists(tmp_path / "dataset" / "digits"))) == 20
    done = subprocess.run([*command, "--seed", "1"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
