"""PaddleX opens what export_model.py wrote, and names the same classes with the same scores."""

from __future__ import annotations

import numpy as np
import paddle
import pytest
from PIL import Image

import ppcls_ext
from ppcls_ext.commands import export_model, export_onnx
from ppcls_ext.commands.outcome import run
from ppcls_ext.config.settings import RunSettings
from ppcls_ext.errors import PpclsExtError


def test_without_paddlex_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "paddlex", None)
    with pytest.raises(PpclsExtError, match="paddlex"):
        ppcls_ext.register_in_paddlex()


def pictures_in(folder) -> list[str]:
    rng = np.random.default_rng(0)
    for index in range(20):
        size = rng.integers(20, 60, 2)
        coarse = Image.fromarray(rng.integers(0, 256, (4, 5, 3), dtype=np.uint8))
        coarse.resize(tuple(map(int, size))).save(folder / f"{index}.png")
    return [str(folder / f"{index}.png") for index in range(20)]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["MobileOne_S0", "RepVGG_A0", "FasterNet_T0"])
def test_the_same_classes_and_scores(name, config_file, tmp_path, monkeypatch):
    pytest.importorskip("paddlex", reason="the package paddlex is not installed")
    monkeypatch.chdir(tmp_path)
    paddle.seed(0)
    paddle.save(ppcls_ext.build(name, class_num=2).state_dict(), "weights.pdparams")
    override = ["-c", str(config_file), "-o", f"Arch.name={name}", "Global.save_inference_dir=program"]
    override.append("Global.pretrained_model=weights")
    steps = "{DecodeImage: {}}, {ResizeImage: {size: [32, 32]}}, {NormalizeImage: {order: ''}}, {ToCHWImage: null}"
    resize = f"Infer.transforms=[{steps}]"
    assert run(lambda: export_model.main([*override, resize])) == 0
    assert run(lambda: export_onnx.main([*override, resize, "--output", "net.onnx"])) == 0
    ppcls_ext.register_in_paddlex()
    import paddlex

    theirs = paddlex.create_model(model_name=name.replace("FasterNet_", "FasterNet-"), model_dir="program")
    files = pictures_in(tmp_path)
    for ours, result in zip(ppcls_ext.Classifier("net.onnx")(files), theirs.predict(files, batch_size=1)):
        scores = dict(zip(np.ravel(result["class_ids"]).tolist(), np.ravel(result["scores"]).tolist()))
        assert scores == pytest.approx(dict(zip(ours["class_ids"], ours["scores"])), abs=1e-3)
        assert set(np.ravel(result["label_names"])) == {"red", "green"}


@pytest.mark.slow
def test_the_same_labels(multi_label_settings, tmp_path):
    """Without CropImage, and one image at a time: see `ppcls_ext.predict.inference_yml.other_in_paddlex`."""
    pytest.importorskip("paddlex", reason="the package paddlex is not installed")
    steps = [{"DecodeImage": {}}, {"ResizeImage": {"size": [32, 32]}}, {"NormalizeImage": {"order": ""}}]
    multi_label_settings["Infer"]["transforms"] = [*steps, {"ToCHWImage": None}]
    multi_label_settings["Global"]["save_inference_dir"] = "program"
    ppcls_ext.Run(RunSettings(multi_label_settings)).export_model()
    ppcls_ext.register_in_paddlex()
    import paddlex

    theirs = paddlex.create_model(model_name="FasterNet-T0_ML", model_dir="program")
    files = pictures_in(tmp_path)
    ours = ppcls_ext.Classifier("program", runtime="paddle")(files)
    for expected, result in zip(ours, theirs.predict(files, batch_size=1)):
        scores = dict(zip(np.ravel(result["class_ids"]).tolist(), np.ravel(result["scores"]).tolist()))
        assert scores == pytest.approx(dict(zip(expected["class_ids"], expected["scores"])), abs=1e-3)
