"""From a folder to predictions with other images than square RGB ones: grey, of four channels, of 64 × 96 px."""

from __future__ import annotations

import re

import numpy as np
import pytest
from PIL import Image

import ppcls_ext
from ppcls_ext.commands import export_onnx, predict
from ppcls_ext.commands.outcome import run
from ppcls_ext.data.image_input import network_input
from ppcls_ext.errors import PpclsExtError
from ppcls_ext.predict.classifier import Classifier
from ppcls_ext.weights.loading import save_weights

pytest.importorskip("paddle2onnx", reason="needs paddle2onnx, which has no wheel for Python 3.13")

#: Small steps, so that the running statistics leave no network that says the same of every image.
OPTIONS = ("Recipe.ema=null", "DataLoader.Train.dataset.batch_transform_ops=null", "Optimizer.lr.warmup_epoch=0")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Class folders, made by channels: the last channel alone tells the two classes apart."""
    monkeypatch.chdir(tmp_path)

    def make(channels: int):
        rng = np.random.default_rng(0)
        for label, name in enumerate(("dark", "bright")):
            (tmp_path / "images" / name).mkdir(parents=True)
            for index in range(8):
                image = rng.integers(0, 80, (44, 66, channels), dtype=np.uint8)
                image[..., -1] += np.uint8(150 * label)
                Image.fromarray(image[..., 0] if channels == 1 else image).save(
                    tmp_path / "images" / name / f"{index}.png"
                )
        return tmp_path / "images"

    return make


def train(folder, weights="none", **options):
    given = {"epochs": 1, "batch_size": 6, "workers": 0, "seed": 1, "name": "run", "weights": weights}
    return ppcls_ext.train("FasterNet_T0", OPTIONS, data=folder, **given, **options)


def every_way(trained, folder, capsys) -> Classifier:
    """The run, its exported file, infer and eval say the same of the images; returns the file's classifier."""
    files = sorted(folder.glob("*/*.png"))
    trained.export_onnx("net.onnx", samples=[str(files[0])])
    classifier = Classifier("net.onnx", threads=1)
    assert classifier.metadata == trained.metadata
    answers = classifier(files)
    for one, other in zip(answers, trained.predict(files)):
        assert one["scores"] == pytest.approx(other["scores"], abs=1e-4)
    right = [answer["label_names"][0] == file.parent.name for answer, file in zip(answers, files)]
    (evaluated,) = trained.evaluate(folder).evaluations
    assert evaluated.value == pytest.approx(np.mean(right), abs=1e-6)
    capsys.readouterr()
    assert run(lambda: predict.infer(["output/run", str(files[0]), "--paddleclas"])) == 0
    (inferred,) = re.findall(r"'scores': \[([\d.]+)", capsys.readouterr().out)
    assert float(inferred) == pytest.approx(answers[0]["scores"][0], abs=1e-4)
    options = [str(files[0]), "--csv", "--save-image", "of_run"]
    assert run(lambda: predict.main(["output/run", *options])) == 0
    assert answers[0]["label_names"][0] in capsys.readouterr().out
    assert len(list((folder.parent / "of_run").iterdir())) == 1
    assert run(lambda: predict.main(["net.onnx", str(files[0]), "--save-image", "drawn"])) == 0
    assert answers[0]["label_names"][0] in capsys.readouterr().out
    assert len(list((folder.parent / "drawn").iterdir())) == 1
    assert (folder.parent / "output" / "run" / "batch.png").is_file()
    return classifier


def test_grey_images(folder, capsys):
    images = folder(1)
    trained = train(images, channels=1, size=32)
    assert "32×32 px, 1 channel\n" in capsys.readouterr().out
    assert trained.model.in_channels == 1
    classifier = every_way(trained, images, capsys)
    assert classifier.input(next(images.glob("*/*.png"))).shape == (1, 32, 32)


@pytest.mark.slow
def test_four_channels_from_weights_of_three(folder, capsys, caplog):
    images = folder(4)
    save_weights(ppcls_ext.build("FasterNet_T0", class_num=5), "three.pdparams")
    with caplog.at_level("INFO", "ppcls_ext"):
        trained = train(images, channels=4, size=32, weights="three.pdparams")
    assert "the first convolution, for 3 channels, was adapted to 4: repeated in turn, times 3 / 4" in caplog.text
    classifier = every_way(trained, images, capsys)
    pixels = np.asarray(Image.open(next(images.glob("*/*.png"))))
    assert classifier(pixels)[0]["scores"] == classifier(next(images.glob("*/*.png")))[0]["scores"]
    assert trained.export_model().joinpath("inference.yml").is_file()
    assert "the network takes 4: PaddleX cannot run it" in capsys.readouterr().err
    with pytest.raises(PpclsExtError, match="for images of 4 channels, and FasterNet_T0 takes 3"):
        _ = ppcls_ext.Run("output/run", ["Arch.in_channels=3"]).model


def test_height_and_width(folder, capsys):
    images = folder(3)
    trained = train(images, size="128x96")
    assert "96×128 px (width × height)\n" in capsys.readouterr().out
    classifier = every_way(trained, images, capsys)
    file = next(images.glob("*/*.png"))
    assert classifier.input(file).shape == (3, 128, 96)
    assert np.array_equal(classifier.input(file), network_input(file, trained.settings.image_rule("eval")))
    assert run(lambda: export_onnx.main(["output/run", "--dynamic-size", "--output", "any.onnx"])) == 0
    assert "image (batch, 3, height, width)" in capsys.readouterr().out
    assert Classifier("any.onnx").input(file).shape == (3, 96, 160), "44 × 66 px, by multiples of 32"
    assert run(lambda: predict.main(["any.onnx", str(file), "--size", "32x64"])) == 0
    assert run(lambda: predict.main(["net.onnx", str(file), "--size", "32x64"])) == 1
    assert "was exported for images of 128x96 px" in capsys.readouterr().err
    assert run(lambda: export_onnx.main(["output/run", "--dynamic-size", "--int8"])) == 1
    assert "int8 is calibrated and checked at one size" in capsys.readouterr().err
