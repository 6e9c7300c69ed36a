"""Pictures and lists as they come: every kind that OpenCV reads, broken ones, and names in any language."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from ppcls_ext.data.image_files import decode
from ppcls_ext.errors import PpclsExtError
from ppcls_ext.training.inference import preprocess
from tests.data.image_kinds import ZOO
from tests.data.test_image_input import BROKEN, IMAGES, opencv, png_header
from tests.helpers import build_engine

READABLE = {name: data for name, data in IMAGES.items() if opencv(data) is not None}
UNREADABLE = {**BROKEN, "bomb": png_header(60_000, 60_000), "large": png_header(12_000, 12_000)}
RESIZE = {"ResizeImage": {"size": 32}}


@pytest.fixture
def engine(config, tmp_path, monkeypatch, registered):
    """Builds an engine that scales pictures to 32 px, in `tmp_path`."""
    monkeypatch.chdir(tmp_path)
    config["Arch"]["name"] = "FasterNet_T0"
    config["Infer"]["transforms"].insert(1, RESIZE)
    config["DataLoader"]["Eval"]["dataset"]["transform_ops"].insert(1, RESIZE)

    def build(mode: str):

        return build_engine(config, mode)

    return build


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_evaluation_and_training_use_our_reader(engine, config, tmp_path, mode):
    """Pictures that OpenCV alone reads otherwise, or not at all, among them."""
    names = ["tiff 16 bits rgba", "tiff lab", "png without IEND", "ppm", "jpeg truncated to 99 %", "jpeg"]
    write_pictures(tmp_path / "pictures", {name: ZOO[name] for name in names})
    (tmp_path / "list.txt").write_text("".join(f"{name}.jpg\t0\n" for name in names))
    loader = "Eval" if mode == "eval" else "Train"
    config["Global"]["eval_during_train"] = False
    config["DataLoader"][loader]["dataset"]["transform_ops"] = [
        config["Infer"]["transforms"][0],
        {"NormalizeImage": {"scale": 1.0, "mean": [0.0] * 3, "std": [1.0] * 3, "order": ""}},
    ]
    config["DataLoader"][loader]["dataset"].update(image_root="pictures", cls_label_path="list.txt", delimiter="\t")
    built = engine(mode)
    dataset = getattr(built, f"{loader.lower()}_dataloader").dataset
    for index, name in enumerate(names):
        replaced = dataset.listed.counts[1]
        image = dataset[index][0]
        try:
            np.testing.assert_array_equal(image.transpose(1, 2, 0), decode(ZOO[name]))
        except PpclsExtError:
            assert dataset.listed.counts[1] > replaced or dataset.listed.failure, "which the loop notices"


def write_pictures(folder: Path, pictures: dict[str, bytes]) -> None:
    folder.mkdir()
    for name, data in pictures.items():
        (folder / f"{name}.jpg").write_bytes(data)  # OpenCV goes by the content


def test_infer_sees_what_opencv_sees(engine, config, tmp_path):
    write_pictures(tmp_path / "pictures", READABLE)
    config["Infer"].update(infer_imgs="pictures", save_dir="results.json")
    infer = engine("infer")
    for name, data in READABLE.items():
        expected = (cv2.resize(opencv(data), (32, 32)).astype("float32") / 255 - 0.5) / 0.5
        got = preprocess(infer, str(tmp_path / "pictures" / f"{name}.jpg"))
        np.testing.assert_allclose(got.transpose(1, 2, 0), expected, atol=1e-6, err_msg=name)
    infer.infer()
    results = json.loads((tmp_path / "results.json").read_text())
    assert {Path(item["file_name"]).stem for item in results} == set(READABLE)


def test_infer_names_each_broken_image_and_does_the_rest(engine, config, tmp_path, capsys):
    write_pictures(tmp_path / "pictures", {**UNREADABLE, "good": IMAGES["jpeg"]})
    config["Infer"].update(infer_imgs="pictures", save_dir="results.json")
    with pytest.raises(PpclsExtError, match=f"{len(UNREADABLE)} of {len(UNREADABLE) + 1} images cannot be read"):
        engine("infer").infer()
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert sorted(Path(line.split(": ")[1]).stem for line in lines) == sorted(UNREADABLE)
    assert len(json.loads((tmp_path / "results.json").read_text())) == 1


@pytest.mark.parametrize("ending", ["\n", "\r\n"])
def test_evaluation_with_any_names_and_kinds(engine, config, tmp_path, ending):
    write_pictures(tmp_path / "räume 花", READABLE)
    (tmp_path / "liste ü.txt").write_bytes(
        "".join(f"{name}.jpg\t{index % 2}{ending}" for index, name in enumerate(READABLE)).encode()
    )
    config["DataLoader"]["Eval"]["dataset"].update(image_root="räume 花", cls_label_path="liste ü.txt", delimiter="\t")
    engine("eval").eval()
    log = (tmp_path / "output" / "FasterNet_T0" / "eval.log").read_text(encoding="utf-8")
    assert f"over {len(READABLE)} images" in log


@pytest.mark.parametrize("name", ["empty", "text", "jpeg header only", "bomb"])
def test_evaluation_refuses_what_opencv_cannot_read(engine, config, tmp_path, name):
    write_pictures(tmp_path / "pictures", {"good": IMAGES["jpeg"], "bad": UNREADABLE[name]})
    (tmp_path / "list.txt").write_text("good.jpg 0\nbad.jpg 1\n")
    config["DataLoader"]["Eval"]["dataset"].update(image_root="pictures", cls_label_path="list.txt")
    with pytest.raises(PpclsExtError, match=r"cannot read pictures/bad\.jpg"):
        engine("eval").eval()
