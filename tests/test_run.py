"""`Run` and `train` as a notebook uses them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import ppcls_ext
from ppcls_ext.commands import export_onnx
from ppcls_ext.config.settings import RunSettings
from ppcls_ext.errors import PpclsExtError
from tests.helpers import ROOT, needs_converter


def images_of(tiny_settings) -> list[Path]:
    return sorted(Path(tiny_settings["Infer"]["infer_imgs"]).iterdir())[:5]


def test_what_a_run_says_of_itself(tiny_run, tiny_settings, dataset):
    run = ppcls_ext.Run(tiny_run)
    assert run.folder == tiny_run
    settings = run.settings
    assert (settings.arch.name, settings.arch.is_ours, settings.class_num) == ("FasterNet_T0", True, 2)
    assert settings.class_names == ("red", "green")
    rule = settings.image_rule()
    assert (rule.resize_short, rule.crop, rule.mean, rule.std) == (36, (32, 32), (0.5,) * 3, (0.5,) * 3)
    weights = settings.weights()
    assert weights.path == weights.content == tiny_run / "best_model.pdparams"
    assert len(settings.image_list("Train")) == 24
    assert settings.image_list("Eval").labels == {0, 1}
    assert repr(run) == f"Run(FasterNet_T0, {str(tiny_run)!r})"


def test_a_run_is_opened_from_everything_that_names_it(tiny_run, tiny_settings):
    Path("tiny.yml").write_text(yaml.safe_dump(tiny_settings), encoding="utf-8")
    named = [tiny_run, str(tiny_run), tiny_run / "best_model", tiny_run / "best_model.pdparams"]
    opened = [ppcls_ext.Run(name, ["Global.print_batch_step=7"]) for name in (*named, "tiny.yml")]
    assert {run.folder for run in opened} == {tiny_run}
    assert {run.settings.config["Global"]["print_batch_step"] for run in opened} == {7}
    assert ppcls_ext.Run("ImageNet/RepVGG_A0").settings.class_num == 1000
    with pytest.raises(PpclsExtError, match=r"no configuration nothing\.yml"):
        ppcls_ext.Run("nothing.yml")
    with pytest.raises(PpclsExtError, match=r"holds no config\.yml"):
        ppcls_ext.Run(tiny_run.parent)


@needs_converter
def test_predictions_are_those_of_the_exported_file(tiny_run, tiny_settings):
    run, images = ppcls_ext.Run(tiny_run), images_of(tiny_settings)
    report = run.export_onnx()
    assert report.path == tiny_run / "FasterNet_T0.onnx"
    expected, got = ppcls_ext.Classifier(report.path)(images), run.predict(images)
    assert [result["class_ids"] for result in got] == [result["class_ids"] for result in expected]
    for one, other in zip(got, expected):
        assert one["scores"] == pytest.approx(other["scores"], abs=2e-5)
    assert got[0]["label_names"][0] in ("red", "green")
    with pytest.raises(PpclsExtError, match=r"precision is .bfloat16.: expected float32, float16, int8"):
        run.export_onnx(precision="bfloat16")


@needs_converter
def test_each_form_has_a_file_of_its_own(tiny_run, dataset, tmp_path, capsys):
    images = sorted((dataset / "png").iterdir())
    for index in range(32):
        path = tmp_path / "many" / f"{index}.png"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(images[index % len(images)].read_bytes())
    float32 = ppcls_ext.Run(tiny_run).export_onnx().path
    before = float32.read_bytes()
    for form, options in (("int8", ["--allow", "--calibration", str(tmp_path / "many")]), ("fp16", [])):
        export_onnx.main([str(tiny_run), f"--{form}", *options])
        path = tiny_run / f"FasterNet_T0_{form}.onnx"
        assert path.is_file()
        assert capsys.readouterr().out.splitlines()[-1] == f"  ppcls-ext predict {path} IMAGE…"
    assert float32.read_bytes() == before
    assert ppcls_ext.Run("MobileOne_S0").onnx_file("int8") == Path("MobileOne_S0_int8.onnx")


def test_evaluation_of_the_same_and_of_other_images(tiny_run, dataset, tmp_path):
    run = ppcls_ext.Run(tiny_run)
    (own,) = run.evaluate().evaluations
    (listed,) = run.evaluate(dataset / "val_list.txt").evaluations
    assert str(own) == str(listed)
    assert own.images == 20
    for index, name in enumerate(("green", "red")):
        for picture in range(3):
            path = tmp_path / "more" / name / f"{picture}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes((dataset / "png" / f"{2 * picture + 1 - index:02}.png").read_bytes())
    (more,) = run.evaluate(tmp_path / "more").evaluations
    assert more.images == 6
    (tmp_path / "more" / "blue").mkdir()
    (tmp_path / "more" / "blue" / "0.png").write_bytes((dataset / "png" / "00.png").read_bytes())
    with pytest.raises(PpclsExtError, match="blue is the folder of no class: expected red, green"):
        run.evaluate(tmp_path / "more")


def test_training_gives_a_run(tiny_settings, tmp_path):
    Path("tiny.yml").write_text(yaml.safe_dump(tiny_settings), encoding="utf-8")
    run = ppcls_ext.train("tiny.yml", ["Global.epochs=1"], patience=3)
    assert run.folder == tmp_path / "output" / "FasterNet_T0"
    assert run.settings.weights().path.name == "best_model.pdparams"
    second = ppcls_ext.train("tiny.yml", ["Global.epochs=1"])
    assert second.folder == tmp_path / "output" / "FasterNet_T0-2"
    assert second.settings.weights().path.parent == second.folder
    with pytest.raises(PpclsExtError, match="expected a configuration to train"):
        ppcls_ext.train()
    again = ppcls_ext.train(resume=run.folder)  # it is finished
    assert again.folder == run.folder


def test_a_configuration_stays_as_it_was_opened(tiny_settings):
    settings = RunSettings(tiny_settings)
    before = yaml.safe_dump(tiny_settings)
    ppcls_ext.Run(settings).evaluate()
    assert yaml.safe_dump(tiny_settings) == before


def test_opening_loads_neither_paddle_nor_paddleclas(tiny_run):
    code = f"import sys, ppcls_ext; run = ppcls_ext.Run({str(tiny_run)!r}); run.metadata; "
    code += "print({'paddle', 'ppcls', 'cv2', 'pandas', 'torch'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
