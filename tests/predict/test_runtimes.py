"""Every runtime that is installed gives the same answers, through `predict` and `verify`."""

from __future__ import annotations

import json
import weakref

import numpy as np
import pytest
from PIL import Image

from ppcls_ext.commands import export_model, predict, verify
from ppcls_ext.commands.outcome import run
from ppcls_ext.data.image_input import network_input
from ppcls_ext.errors import PpclsExtError
from ppcls_ext.export import agreement
from ppcls_ext.predict.classifier import BATCH, Classifier
from ppcls_ext.predict.runtimes import RUNTIMES, installed, load
from tests.tiny_net import PIXELS


def needs(runtime):
    if not installed(runtime):
        pytest.skip(f"the runtime {runtime} is not installed")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for index in range(5):
        coarse = Image.fromarray(rng.integers(0, 256, (4, 5, 3), dtype=np.uint8))
        coarse.resize((40 + index, 30)).save(folder / f"{index}.png")
    return folder


def test_the_same_answers(exported, pictures, capsys):
    runtime = "openvino"
    needs(runtime)
    _, path, _ = exported
    images = np.random.default_rng(1).standard_normal((3, 3, PIXELS, PIXELS)).astype(np.float32)
    ours = Classifier(path).probabilities(images)
    other = Classifier(path, threads=1, runtime=runtime)
    theirs = np.concatenate([other.probabilities(image[None]) for image in images])
    np.testing.assert_allclose(theirs, ours, atol=1e-5)
    assert run(lambda: predict.main([str(path), str(pictures), "--json", "--runtime", runtime])) == 0
    (got, *_) = json.loads(capsys.readouterr().out)
    assert run(lambda: predict.main([str(path), str(pictures), "--json"])) == 0
    (expected, *_) = json.loads(capsys.readouterr().out)
    assert got["label_names"] == expected["label_names"]
    np.testing.assert_allclose(got["scores"], expected["scores"], atol=2e-5)


def test_openvino_in_bf16(exported):
    needs("openvino")
    _, path, _ = exported
    images = np.random.default_rng(1).standard_normal((8, 3, PIXELS, PIXELS)).astype(np.float32)
    ours = Classifier(path).probabilities(images)
    theirs = Classifier(path, runtime="openvino", bf16=True).probabilities(images)
    np.testing.assert_allclose(theirs, ours, atol=0.1)


def test_paddle_reads_what_export_model_writes(config_file, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    steps = "{DecodeImage: {}}, {ResizeImage: {size: [32, 32]}}, {NormalizeImage: {order: ''}}, {ToCHWImage: null}"
    override = [f"Infer.transforms=[{steps}]", "Global.save_inference_dir=program"]
    assert run(lambda: export_model.main(["-c", str(config_file), "-o", *override])) == 0
    assert "program/inference.yml" in capsys.readouterr().out
    picture = tmp_path / "picture.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 40, 3), dtype=np.uint8)).save(picture)
    assert run(lambda: predict.main(["program", str(picture), "--json", "--runtime", "paddle"])) == 0
    (result,) = json.loads(capsys.readouterr().out)
    assert sorted(result["label_names"]) == ["green", "red"]
    assert sum(result["scores"]) == pytest.approx(1, abs=1e-4)


def test_verify_prints_a_line_for_each_runtime(exported, pictures, capsys):
    _, path, _ = exported
    assert run(lambda: verify.main([str(path), str(pictures)])) == 0
    printed = capsys.readouterr().out
    assert "5 images, compared with onnxruntime" in printed
    for runtime in ("openvino", "ncnn", "tflite"):
        (line, *_) = (line for line in printed.splitlines() if line.startswith(f"{runtime} "))
        assert ("100.0%" in line) if installed(runtime) else (f"ppcls-ext[{runtime}]" in line)


def test_verify_fails_where_answers_differ(exported, pictures, tmp_path, capsys, config_file, monkeypatch):
    """The program of another model."""
    needs("paddle")
    monkeypatch.chdir(tmp_path)
    steps = "{DecodeImage: {}}, {ResizeImage: {size: [32, 32]}}, {NormalizeImage: {order: ''}}, {ToCHWImage: null}"
    override = [f"Infer.transforms=[{steps}]", "Global.save_inference_dir=program", "Arch.class_num=5"]
    override += ["Infer.PostProcess.class_id_map_file=null"]
    assert run(lambda: export_model.main(["-c", str(config_file), "-o", *override])) == 0
    _, path, _ = exported
    assert run(lambda: verify.main([str(path), str(pictures), "--program", "program"])) == 1
    assert "error: " in capsys.readouterr().err


def test_what_cannot_be_loaded_is_said(tmp_path, exported):
    with pytest.raises(PpclsExtError, match="expected onnxruntime, openvino, paddle, tflite, ncnn, coreml"):
        load("tensorrt", tmp_path)
    with pytest.raises(PpclsExtError, match="bf16 is for the runtime openvino"):
        load("onnxruntime", exported[1], bf16=True)
    with pytest.raises(PpclsExtError, match=r"expected a folder with inference\.json"):
        load("paddle", tmp_path)
    with pytest.raises(PpclsExtError, match=r"x\.tflite: the runtime openvino does not run it, but tflite"):
        load("openvino", tmp_path / "x.tflite")
    for runtime, kind in RUNTIMES.items():
        if kind.suffix:
            with pytest.raises(
                PpclsExtError, match=rf"the runtime {runtime} runs MODEL\{kind.suffix}: ppcls-ext export"
            ):
                load(runtime, tmp_path / "none.onnx")
        if runtime not in ("paddle", "coreml") and installed(runtime):
            with pytest.raises(PpclsExtError, match="there is no such file"):
                load(runtime, tmp_path / f"none{kind.suffix or '.onnx'}")


def test_verify_holds_a_batch_of_images_at_a_time(exported, pictures, monkeypatch, capsys):
    alive, most = [], []

    def prepare(path, rule):
        image = network_input(path, rule)
        alive[:] = [other for other in alive if other() is not None]
        alive.append(weakref.ref(image))
        most.append(len(alive))
        return image

    monkeypatch.setattr(agreement, "network_input", prepare)
    files = sorted(pictures.iterdir())
    monkeypatch.setattr(agreement, "find_images", lambda names: files * 10)
    monkeypatch.setattr("ppcls_ext.progress.FIRST", 0.0)
    monkeypatch.setattr("ppcls_ext.progress.EVERY", 0.0)
    assert run(lambda: verify.main([str(exported[1]), str(pictures)])) == 0
    assert max(most) <= 2 * BATCH < len(most) == 50
    captured = capsys.readouterr()
    assert captured.out.startswith(f"{exported[1]}: 50 images, compared with onnxruntime")
    assert captured.err.splitlines()[-1].startswith("verifying: 50 of 50 images, ")


def test_verify_prints_nothing_that_a_terminal_obeys(exported, pictures, tmp_path, capsys):
    path = tmp_path / "net\x1b[2J.onnx"
    path.write_bytes(exported[1].read_bytes())
    assert run(lambda: verify.main([str(path), str(pictures)])) == 0
    captured = capsys.readouterr()
    assert captured.out.startswith(f"{tmp_path}/net\\x1b[2J.onnx: 5 images")
    assert "\x1b" not in captured.out + captured.err
