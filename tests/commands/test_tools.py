"""train → eval → infer → export, as real commands from another working directory."""

from __future__ import annotations

import ast
import re
import shutil
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import paddle
import pytest
from PIL import Image

from tests.tiny_dataset import SIZE

WEIGHTS = "Global.pretrained_model=output/MobileOne_S0/best_model"


class Run(NamedTuple):
    folder: Path
    train: str


@pytest.fixture(scope="module")
def trained(run_tool, config_file, tmp_path_factory) -> Run:
    """One epoch of MobileOne_S0 in a fresh folder."""
    folder = tmp_path_factory.mktemp("run")
    # a small rate and momentum of the running statistics leave predictions that are neither all one class nor NaN
    result = run_tool("train", "-c", config_file, "-o", "Optimizer.lr.learning_rate=1e-3", cwd=folder)
    assert result.returncode == 0, result.stderr
    return Run(folder, result.stdout)


def accuracy_line(text: str) -> str:
    return re.search(r"top1 [\d.]+, top2 [\d.]+ over \d+ images", text).group()


def test_train(trained):
    assert accuracy_line(trained.train).endswith("top2 1.0000 over 20 images")
    best = Path("output", "MobileOne_S0", "best_model.pdparams")
    assert trained.train.splitlines()[-1] == f"best weights: {best}"
    folder = trained.folder / best.parent
    for name in ("best_model", "latest", "epoch_1"):
        for suffix in (".pdparams", ".pdopt", ".pdstates"):
            assert (folder / (name + suffix)).is_file(), "the same place with every PaddleClas"
    assert "over 20 images" in (folder / "train.log").read_text()
    assert sorted(path.name for path in trained.folder.iterdir()) == ["output"]


def test_eval_gives_what_training_gave(trained, run_tool, config_file):
    result = run_tool("eval", "-c", config_file, "-o", WEIGHTS, cwd=trained.folder)
    assert result.returncode == 0, result.stderr
    assert accuracy_line(result.stdout) == accuracy_line(trained.train)
    assert "random" not in result.stderr


@pytest.fixture(scope="module")
def inferred(trained, run_tool, config_file, dataset):
    """Inference of the 20 validation images, one of them under another suffix, and of three files that are none."""
    images = trained.folder / "images"
    (images / "below").mkdir(parents=True)
    for index in range(20):
        name = "below/00.PNG" if index == 0 else f"{index:02}.png"
        shutil.copy(dataset / "png" / f"{index:02}.png", images / name)
    (images / "broken.png").write_bytes(b"\x89PNG")
    (images / "empty.jpg").touch()
    (images / "notes.txt").write_text("no picture")
    options = [WEIGHTS, f"Infer.infer_imgs={images}"]
    return run_tool("infer", "-c", config_file, "-o", *options, cwd=trained.folder)


def predictions(text: str) -> dict[str, dict]:
    lines = [line for line in text.splitlines() if line.startswith("[{'class_ids'")]
    return {Path(item["file_name"]).stem: item for line in lines for item in ast.literal_eval(line)}


def test_infer_names_what_it_cannot_read_and_does_the_rest(inferred):
    assert inferred.returncode == 1
    errors = [line for line in inferred.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 3
    assert "broken.png: damaged PNG image" in errors[0]
    assert "empty.jpg: not an image" in errors[1]
    assert "2 of 22 images cannot be read" in errors[2]
    assert sorted(predictions(inferred.stdout)) == [f"{index:02}" for index in range(20)]


def test_infer_agrees_with_eval(inferred, trained):
    right = [item["class_ids"][0] == int(name) % 2 for name, item in predictions(inferred.stdout).items()]
    assert accuracy_line(trained.train).startswith(f"top1 {np.mean(right):.4f}")
    assert {item["label_names"][0] for item in predictions(inferred.stdout).values()} <= {"red", "green"}


def test_export_is_the_trained_model_fused(trained, run_tool, config_file, inferred, dataset):
    target = trained.folder / "inference"
    target.mkdir()
    (target / "inference.pdmodel").write_text("of an earlier export, for other parameters")
    result = run_tool("export_model", "-c", config_file, "-o", WEIGHTS, cwd=trained.folder)
    assert result.returncode == 0, result.stderr
    names = ["inference.json", "inference.pdiparams", "inference.sha256"]
    assert sorted(path.name for path in target.iterdir()) == names
    assert result.stdout.splitlines()[-2:] == ["inference/inference.json", "inference/inference.pdiparams"]
    assert "batch_norm" not in (target / "inference.json").read_text(), "fused"

    model = paddle.jit.load(str(target / "inference"))
    image = cv2.imread(str(dataset / "png" / "03.png"))[:, :, ::-1].astype("float32")
    scores = model(paddle.to_tensor(((image / 255 - 0.5) / 0.5).transpose(2, 0, 1)[None])).numpy()[0]
    item = predictions(inferred.stdout)["03"]
    expected = [score for _, score in sorted(zip(item["class_ids"], item["scores"]))]
    np.testing.assert_allclose(scores, expected, atol=2e-5)


@pytest.mark.parametrize("tool", ["train", "eval", "infer", "export_model"])
def test_help_and_bad_usage(run_tool, tool, tmp_path):
    help_text = run_tool(tool, "--help", cwd=tmp_path)
    assert help_text.returncode == 0
    assert f"\n  ppcls-ext {tool.replace('_', '-')} " in help_text.stdout, "an example"
    assert run_tool(tool, cwd=tmp_path).returncode == 2


@pytest.mark.parametrize("tool", ["train", "eval"])
def test_check_images(run_tool, config_file, dataset, tmp_path, tool):
    checked = run_tool(tool, "-c", config_file, "--check-images", cwd=tmp_path)
    assert checked.returncode == 0, checked.stderr
    assert checked.stdout.splitlines()[-1].endswith("val_list.txt: 20 of 20 images can be read")
    shutil.copytree(dataset, tmp_path / "data")
    jpeg = tmp_path / "data" / "png" / "03.png"
    Image.open(jpeg).save(jpeg, "JPEG")
    jpeg.write_bytes(jpeg.read_bytes()[:-40])  # OpenCV would decode it, in part grey
    (tmp_path / "data" / "png" / "07.png").write_bytes(b"")
    listed = tmp_path / "data" / "val_list.txt"
    listed.write_text("\ufeff" + listed.read_text(), encoding="utf-8")  # PaddleClas would get a copy of this one
    options = [f"DataLoader.{part}.dataset.image_root=data" for part in ("Train", "Eval")]
    options.append("DataLoader.Eval.dataset.cls_label_path=data/val_list.txt")
    checked = run_tool(tool, "-c", config_file, "-o", *options, "--check-images", cwd=tmp_path)
    assert checked.returncode == 1
    assert "val_list.txt: 18 of 20 images can be read" in checked.stdout
    assert re.search(r"^data/val_list.txt:4: data/png/03.png: damaged image: .*truncated", checked.stderr, re.MULTILINE)
    assert re.search(r"val_list.txt:8: data/png/07.png: not an image", checked.stderr)
    lists = 2 if tool == "train" else 1
    assert checked.stderr.splitlines()[-1].startswith(f"error: {2 * lists} images cannot be read")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data"], "nothing is trained or written"


def test_errors_are_one_line(run_tool, config_file, tmp_path):
    result = run_tool("train", "-c", config_file, "-o", "Arch.name=MobileOne_S9", cwd=tmp_path)
    assert result.returncode == 1
    errors = [line for line in result.stderr.splitlines() if "ppcls_ext replaces" not in line]
    assert len(errors) == 1, result.stderr
    assert errors[0].startswith("error: Arch.name is MobileOne_S9")
    assert list(tmp_path.iterdir()) == [], "nothing half-done"


def test_size():
    assert SIZE == 32, "test_export_is_the_trained_model_fused does without scaling and cropping"
