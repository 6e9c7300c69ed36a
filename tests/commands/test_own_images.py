"""A folder of one's own pictures to predictions of the exported file, as real commands; what a run knows of itself."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import yaml
from PIL import Image

pytestmark = pytest.mark.slow
TRAIN = ("train", "-c", "FasterNet_T0", "--data", "my flowers", "--size", "32", "--patience", "9")
#: Small steps, so that the running statistics leave no network that says the same of every picture.
OPTIONS = ("DataLoader.Train.loader.num_workers=0", "DataLoader.Eval.loader.num_workers=0", "Recipe.ema=null")
MORE = ("DataLoader.Train.sampler.batch_size=8", "Global.seed=1", "DataLoader.Train.dataset.batch_transform_ops=null")


class Trained(NamedTuple):
    folder: Path
    stdout: str
    stderr: str


@pytest.fixture(scope="module")
def ppcls_ext(run_tool):
    """Runs `python -m ppcls_ext`; fails where another exit code than 0 comes back and none is expected."""

    def run(*arguments, cwd, code=0):
        result = run_tool("-m", *arguments, cwd=cwd)
        assert result.returncode == code, result.stdout + result.stderr
        return result

    return run


@pytest.fixture(scope="module")
def trained(ppcls_ext, tmp_path_factory) -> Trained:
    """Two epochs on 30 images of three classes."""
    folder = tmp_path_factory.mktemp("work")
    rng = np.random.default_rng(0)
    for label, name in enumerate(("rose", "菊 花", "tulip")):
        for index in range(10):
            pixels = rng.integers(0, 90, (40, 40, 3))
            pixels[..., label] += 150
            path = folder / "my flowers" / name / ("below" if index % 2 else ".") / f"{index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels.astype("uint8")).save(path)
    (folder / "my flowers" / "tulip" / "broken.jpg").write_bytes(b"")
    result = ppcls_ext(*TRAIN, "-o", "Global.epochs=2", *OPTIONS, *MORE, cwd=folder)
    return Trained(folder, result.stdout, result.stderr)


def test_the_terminal_is_quiet(trained):
    run = "output/FasterNet_T0"
    loading, *lines = trained.stdout.splitlines()
    assert loading == "FasterNet_T0: loading Paddle and PaddleClas"
    assert lines[:2] == [
        "3 classes, 24 images to train on, 6 to evaluate on",
        f"left out: 1 unreadable; {run}/lists/left_out.txt names them",
    ]
    assert re.fullmatch(r"model +FasterNet_T0, 2\.\d million parameters, 3 classes", lines[2])
    assert lines[3] == "images     24 to train on, 6 to evaluate on, 32×32 px"
    assert re.fullmatch(r"training +2 epochs of 3 batches of 8, AdamW, on cpu, \d+ threads?, float32", lines[4])
    epoch = r"epoch %d/2: loss [\d.]+, \d+ images/s%s \| evaluation: top1 [\d.]+ over 6 images, loss [\d.]+"
    assert re.match(epoch % (1, r", \d+ s left"), lines[6])
    assert re.match(epoch % (2, ""), lines[7])
    assert re.match(r"kept +best_model [\d.]+ MB, latest [\d.]+ MB$", lines[8])
    assert lines[9:13] == [
        "next:",
        f"  ppcls-ext eval {run}",
        f"  ppcls-ext predict {run} IMAGE…",
        f"  ppcls-ext export-onnx {run}",
    ]
    tied = [line for line in lines[13:-1] if re.match(r"top1 was [\d.]+ in all 2 evaluations", line)]
    assert len(lines) == 14 + len(tied)
    assert [line.partition(" from")[0] for line in trained.stderr.splitlines()] == [
        "random weights (no --weights): learning rate 0.001 (--lr), not 0.0003; the classifier's is 0.3 of it "
        "(Recipe.head_learning_rate), not 10 times",
        "batches of 8: learning rate 0.0005 (--lr), not 0.001 as for 32",
        "FasterNet_T0 starts",
    ]
    log = (trained.folder / run / "train.log").read_text()
    for text in ("AdamW", "based on 8 gpus", "[Train][Epoch 2/2][Avg]"):
        assert text in log, "all of PaddleClas's output"


def test_what_is_refused_leaves_nothing(trained, ppcls_ext, tmp_path):
    command = ("train", "-c", "FasterNet_T0", "--data", trained.folder / "my flowers", "-o", "Arch.name=FasterNet_T9")
    result = ppcls_ext(*command, cwd=tmp_path, code=1)
    assert "FasterNet_T9" in result.stderr
    assert list(tmp_path.iterdir()) == []
    again = ppcls_ext(*TRAIN, "--freeze", "head", cwd=trained.folder, code=1)
    assert "expected backbone" in again.stderr
    assert [path.name for path in (trained.folder / "output").iterdir()] == ["FasterNet_T0"]


def test_only_the_best_and_the_latest_are_kept(trained):
    names = {path.name.split(".")[0] for path in (trained.folder / "output" / "FasterNet_T0").glob("*.pd*")}
    assert names == {"best_model", "latest"}


def best(trained: Trained) -> str:
    """What the evaluation of the best epoch said."""
    facts = json.loads((trained.folder / "output" / "FasterNet_T0" / "run.json").read_text())
    line = next(line for line in trained.stdout.splitlines() if line.startswith(f"epoch {facts['best']['epoch']}/2"))
    return re.search(r"top1 [\d.]+ over 6 images, loss [\d.]+", line).group()


def test_a_run_knows_its_settings(trained):
    folder = trained.folder / "output" / "FasterNet_T0"
    facts = json.loads((folder / "run.json").read_text())
    assert facts["command"].startswith("python -m ppcls_ext train -c FasterNet_T0 --data 'my flowers' --size 32")
    assert (facts["epoch"], facts["epochs"], facts["finished"], facts["seed"]) == (2, 2, True, 1)
    assert facts["best"]["metric"] == "top1"
    assert facts["trained_with"]["class_names"] == ["rose", "tulip", "菊 花"]
    config = yaml.safe_load((folder / "config.yml").read_text(encoding="utf-8"))
    dataset = config["DataLoader"]["Train"]["dataset"]
    assert dataset["image_root"] == str((trained.folder / "my flowers").resolve())
    assert config["Arch"]["class_num"] == 3
    assert config["Metric"]["Eval"] == [{"TopkAcc": {"topk": [1]}}]
    assert config["Global"]["image_shape"] == [3, 32, 32]


@pytest.fixture(scope="module")
def predicted(trained, ppcls_ext) -> dict[str, dict]:
    """Of the exported file, for all pictures, by name."""
    exported = ppcls_ext("export-onnx", "output/FasterNet_T0", cwd=trained.folder)
    assert exported.stdout.splitlines()[-1] == "  ppcls-ext predict output/FasterNet_T0/FasterNet_T0.onnx IMAGE…"
    command = ("predict", "output/FasterNet_T0/FasterNet_T0.onnx", "my flowers/rose", "my flowers/菊 花")
    shown = ppcls_ext(*command, "--out", "results.csv", cwd=trained.folder)
    assert "my flowers/rose/below/1.png" in shown.stdout
    with open(trained.folder / "results.csv", encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 60, "a line per image and class"
    return {row["file_name"]: row for row in rows if row["rank"] == "1"}


def test_the_exported_file_says_what_infer_says(trained, predicted, ppcls_ext):
    command = ("infer", "output/FasterNet_T0", "my flowers/rose", "my flowers/菊 花/0.png", "--out", "results.json")
    ppcls_ext(*command, cwd=trained.folder)
    results = json.loads((trained.folder / "results.json").read_text(encoding="utf-8"))
    assert len(results) == 11
    for result in results:
        row = predicted[result["file_name"]]
        assert (str(result["class_ids"][0]), result["label_names"][0]) == (row["class_id"], row["label_name"])
        assert result["scores"][0] == pytest.approx(float(row["score"]), abs=2e-4)


def test_images_of_predictions_and_of_their_evidence(trained, predicted, ppcls_ext):
    run, flower = "output/FasterNet_T0", "my flowers/菊 花/0.png"
    ppcls_ext("infer", run, flower, "--save-image", "infer.png", cwd=trained.folder)
    ppcls_ext("predict", f"{run}/FasterNet_T0.onnx", flower, "--save-image", "predict.png", cwd=trained.folder)
    told = []
    for model in (run, f"{run}/best_model", f"{run}/FasterNet_T0.onnx"):
        done = ppcls_ext("explain", model, flower, "my flowers/rose/0.png", "--output", "maps", cwd=trained.folder)
        told.append(done.stdout.splitlines())
    assert told[0] == told[1] == told[2]
    assert len(told[0]) == 2
    paths = [line.partition("  ")[0] for line in told[0]]
    for path in ("infer.png", "predict.png", *paths):
        with Image.open(trained.folder / path) as drawn:
            assert drawn.convert("L").getextrema()[0] < 100, "not blank"
    assert len(set(paths)) == 2, "two pictures of one name"


def test_what_cannot_be_explained(trained, ppcls_ext):
    for model, words in (
        ("nowhere", "nowhere is no run: expected the folder that a training wrote, such as output/MobileOne_S0, or "
        "weights in it; or an ONNX file"),
        ("nowhere.onnx", "nowhere.onnx: "),
        ("my flowers", "my flowers is no run"),
    ):  # fmt: skip
        done = ppcls_ext("explain", model, "my flowers/rose/0.png", cwd=trained.folder, code=1)
        assert words in done.stderr.splitlines()[-1]


def test_eval_gives_what_training_gave_from_any_folder(trained, ppcls_ext, tmp_path):
    run = trained.folder / "output" / "FasterNet_T0"
    moved = tmp_path / "kept run"
    shutil.copytree(run, moved)
    for place in (run, moved, moved / "best_model"):
        result = ppcls_ext("eval", place, cwd=tmp_path)
        _, weights, figures, measures = result.stdout.splitlines()
        assert (
            weights
            == f"weights: {place if place.is_dir() else place.parent}/best_model.pdparams, those of the best evaluation"
        )
        assert (figures, measures[:9]) == (best(trained), "macro F1 ")
    assert "warning" not in result.stderr
    assert sorted(os.listdir(tmp_path)) == ["kept run"]
    assert (moved / "eval.log").is_file()


def test_other_settings_are_one_warning_and_other_classes_an_error(trained, ppcls_ext, tmp_path):
    run = trained.folder / "output" / "FasterNet_T0"
    config = ("-c", run / "config.yml", "-o", f"Global.pretrained_model={run / 'best_model'}")
    result = ppcls_ext("eval", *config, "Global.image_size=64", cwd=tmp_path)
    (line,) = [line for line in result.stderr.splitlines() if "warning" in line]
    assert "best_model.pdparams was trained with image size 32×32 px" in line
    assert "the configuration says image size 64×64 px" in line
    result = ppcls_ext("eval", *config, "Arch.class_num=4", cwd=tmp_path, code=1)
    assert "was trained with 3 classes, and the configuration says 4" in result.stderr.splitlines()[-1]


def test_resuming_is_one_flag(trained, ppcls_ext, tmp_path):
    for name in ("output", "my flowers"):
        shutil.copytree(trained.folder / name, tmp_path / name)
    run = Path("output", "FasterNet_T0")
    result = ppcls_ext("train", "--resume", run, cwd=tmp_path)
    assert result.stdout.splitlines()[1:] == [
        f"{run} is finished: 2 of 2 epochs are trained; to train longer: -o Global.epochs=4",
        f"best weights: {run}/best_model.pdparams",
    ]
    # whatever a training starts from does not matter here
    start = ("Global.pretrained_model=gone", "Recipe.unfuse.pictures=64", "Optimizer.lr.learning_rate=1e-5")
    command = (*TRAIN, "--resume", "-o", "Global.epochs=3", *OPTIONS, *MORE, *start)
    result = ppcls_ext(*command, cwd=tmp_path)
    assert re.search(r"^epoch 3/3: ", result.stdout, re.MULTILINE)
    assert not re.search(r"^epoch 2/3: ", result.stdout, re.MULTILINE)
    (line,) = result.stderr.splitlines()
    assert line.startswith("warning: resuming with changed settings: Global.epochs 2 → 3")
    assert "Optimizer.lr.learning_rate 0.0005 → 1e-05" in line
    os.rename(tmp_path / run, tmp_path / "renamed")
    shutil.rmtree(tmp_path / "output")
    result = ppcls_ext("train", "--resume", "renamed", "-v", "-o", "Global.epochs=4", cwd=tmp_path)
    assert "[Train][Epoch 4/4]" in result.stdout, "-v shows PaddleClas's own output"
    assert sorted(os.listdir(tmp_path)) == ["my flowers", "renamed"]
    facts = json.loads((tmp_path / "renamed" / "run.json").read_text())
    assert (facts["epoch"], len(facts["resumed_with"])) == (4, 2)
