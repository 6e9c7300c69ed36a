"""The data set of shapes: what is drawn, what is written about it, in both layouts."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from ppcls_ext.commands.datasets import make_shapes as main
from ppcls_ext.data.shapes import NAMES, make
from ppcls_ext.errors import PpclsExtError


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    output = tmp_path_factory.mktemp("made") / "shapes"
    assert make(output, train=12, val=5)
    return output


def test_the_boxes_are_the_pixels(dataset):
    for part, count in (("train", 12), ("val", 5)):
        coco = json.loads((dataset / "annotations" / f"{part}.json").read_text())
        assert [category["name"] for category in coco["categories"]] == list(NAMES)
        assert len(coco["images"]) == count
        assert [annotation["id"] for annotation in coco["annotations"]] == list(range(1, len(coco["annotations"]) + 1))
        for picture in coco["images"]:
            image = Image.open(dataset / "images" / picture["file_name"])
            assert image.size == (picture["width"], picture["height"]) == (96, 96)
            label = np.asarray(Image.open(dataset / "labels" / picture["file_name"]))
            own = [item for item in coco["annotations"] if item["image_id"] == picture["id"]]
            assert 1 <= len(own) <= 4
            covered = np.zeros_like(label)
            for item in own:
                left, top, width, height = item["bbox"]
                # Pillow draws the outline's pixels too
                box = tuple(
                    slice(max(0, int(low) - 1), int(low + length) + 2) for low, length in ((top, height), (left, width))
                )
                assert int((label[box] == item["category_id"]).sum()) == pytest.approx(item["area"], rel=0.2)
                covered[box] = 1
            assert set(np.unique(label)) == {0, *(item["category_id"] for item in own)}
            assert not label[covered == 0].any()


def kinds_by_colour(folder):
    """The classes of the pixels whose strongest channel is red, green, blue."""
    found = [set(), set(), set()]
    for path in (folder / "images" / "train").iterdir():
        label = np.asarray(Image.open(folder / "labels" / "train" / path.name))
        strongest = np.asarray(Image.open(path)).argmax(axis=2)
        for channel in range(3):
            found[channel] |= set(label[(strongest == channel) & (label > 0)].tolist())
    return found


def test_colours(dataset, tmp_path):
    assert kinds_by_colour(dataset) == [{1}, {2}, {3}]
    make(tmp_path / "any", train=12, val=1, any_colour=True)
    assert all(len(kinds) > 1 for kinds in kinds_by_colour(tmp_path / "any"))


def test_segmentation_lists(dataset):
    rows = [line.split() for line in (dataset / "val.txt").read_text().splitlines()]
    assert len(rows) == 5
    assert all((dataset / path).is_file() for row in rows for path in row)
    assert (dataset / "label_list.txt").read_text().split() == list(NAMES)


def test_seed(dataset, tmp_path):
    make(tmp_path / "same", train=12, val=5)
    make(tmp_path / "other", train=12, val=5, seed=1)
    assert contents(tmp_path / "same") == contents(dataset)
    assert contents(tmp_path / "other") != contents(dataset)


def test_what_is_there_is_kept(dataset, tmp_path, capsys):
    output = tmp_path / "shapes"
    arguments = ["--output", str(output), "--train", "2", "--val", "1"]
    main(arguments)
    main(arguments)
    assert "nothing to do" in capsys.readouterr().out
    before = contents(output)
    with pytest.raises(PpclsExtError, match="--force"):
        main([*arguments, "--seed", "3"])
    assert contents(output) == before
    next((output / "labels" / "train").iterdir()).unlink()
    with pytest.raises(PpclsExtError, match="not complete"):
        main(arguments)
    main([*arguments, "--force"])
    assert contents(output) == before
    (output / "mine.txt").write_text("")
    with pytest.raises(PpclsExtError, match=r"did not make \(mine.txt\)"):
        main([*arguments, "--force"])
    with pytest.raises(PpclsExtError, match="size 8"):
        make(tmp_path / "tiny", size=8)
