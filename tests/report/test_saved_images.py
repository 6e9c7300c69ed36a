"""--save-image: a file for one picture, a folder and sheets for many; no picture in the place of another."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from ppcls_ext.errors import PpclsExtError
from ppcls_ext.report.image_figures import SavedImages

RESULT = {"class_ids": [1, 0], "scores": [0.75, 0.25], "label_names": ["été", ""]}
PICTURE = np.random.default_rng(0).integers(0, 255, (900, 30, 3), np.uint8)


def test_one_picture(tmp_path):
    saved = SavedImages(tmp_path / "one.png", 1)
    saved.add("a/flower.jpg", PICTURE, RESULT)
    saved.finish()
    assert saved.written == [tmp_path / "one.png"]
    with Image.open(tmp_path / "one.png") as image:
        assert image.size[0] == 760


def test_many_pictures_and_a_sheet(tmp_path):
    saved = SavedImages(tmp_path / "out", 3)
    for name in ("a/flower.jpg", "b/flower.png", "sheet-01.jpg"):
        saved.add(name, PICTURE, {**RESULT, "label_names": []})
    saved.finish()
    names = [path.name for path in saved.written]
    assert names == ["flower.png", "flower-2.png", "sheet-01-2.png", "sheet-01.png"]
    assert all(path.stat().st_size > 1000 for path in saved.written)


@pytest.mark.parametrize(("target", "count"), [("x.png", 2), ("x.jpg", 1)])
def test_targets_that_cannot_be(target, count, tmp_path):
    with pytest.raises(PpclsExtError, match="--save-image is"):
        SavedImages(tmp_path / target, count)
