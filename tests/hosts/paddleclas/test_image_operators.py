"""Thin pictures, which grow without bound where their short side is given a size."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from ppcls_ext.errors import PpclsExtError
from ppcls_ext.hosts.paddleclas import adaptations
from tests.helpers import build_engine

pytestmark = pytest.mark.usefixtures("registered")


def test_it_is_refused_before_memory_is_taken():
    adaptations.apply()
    adaptations.apply()
    from ppcls.data.preprocess import ResizeImage

    with pytest.raises(PpclsExtError, match=r"resized to \d+ × 256 px, the image would be too large"):
        ResizeImage(resize_short=256)(np.zeros((1, 60_000, 3), np.uint8))
    assert ResizeImage(resize_short=256)(np.zeros((8, 800, 3), np.uint8)).shape == (256, 25_600, 3)


def test_infer_names_it_and_does_the_rest(config, tmp_path, monkeypatch, capsys):

    adaptations.apply()
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pictures").mkdir()
    Image.new("L", (60_000, 1)).save(tmp_path / "pictures" / "thin.png")
    Image.new("L", (60, 40)).save(tmp_path / "pictures" / "usual.png")
    config["Arch"]["name"] = "FasterNet_T0"
    config["Infer"].update(infer_imgs=str(tmp_path / "pictures"))
    config["Infer"]["transforms"][1:1] = [{"ResizeImage": {"resize_short": 256}}, {"CropImage": {"size": 32}}]
    with pytest.raises(PpclsExtError, match="1 of 2 images"):
        build_engine(config, "infer").infer()
    assert "thin.png: resized to 15360000 × 256 px" in capsys.readouterr().err
