"""ppcls_ext.predict.classifier and tools/infer_onnx.py."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path

import numpy as np
import onnx
import paddle
import pytest
from PIL import Image, JpegImagePlugin

import ppcls_ext
from ppcls_ext.commands.outcome import run
from ppcls_ext.commands.predict import main
from ppcls_ext.data.image_files import find_images
from ppcls_ext.data.image_input import network_input
from ppcls_ext.errors import PpclsExtError
from ppcls_ext.export.pipeline import export_onnx
from ppcls_ext.predict.answers import Choice
from ppcls_ext.predict.classifier import AHEAD, Classifier, classify, softmax
from ppcls_ext.predict.metadata import Metadata
from ppcls_ext.predict.results import ResultsWriter
from tests.tiny_net import CLASSES, METADATA, PIXELS, make_net

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def pictures(tmp_path) -> Path:
    """A folder of five images, and files that are none."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for index, name in enumerate(("b.jpg", "a.png", "c.JPEG", "d.bmp", "e.webp")):
        levels = np.random.default_rng(index).integers(0, 256, (24 + index, 30, 3), dtype=np.uint8)
        Image.fromarray(levels).save(folder / name)
    (folder / "notes.txt").write_text("no image")
    (folder / "inside.jpg").mkdir()
    return folder


def left_out(pictures: Path) -> str:
    """The line on notes.txt."""
    return f"{pictures}: left out: 1 not an image\n"


def infer(capsys, *arguments) -> tuple[int, str, str]:
    code = run(lambda: main([str(argument) for argument in arguments]))
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_answers_are_paddles(exported, pictures, capsys):
    net, path, _ = exported
    code, out, err = infer(capsys, "--model", path, "--json", "--topk", 3, pictures)
    assert (code, err) == (0, left_out(pictures))
    results = json.loads(out)
    assert [Path(result["file_name"]).name for result in results] == ["a.png", "b.jpg", "c.JPEG", "d.bmp", "e.webp"]
    rule = Classifier(path).metadata.preprocessing
    fused = ppcls_ext.reparameterize(net)
    for result in results:
        assert list(result) == ["file_name", "class_ids", "scores", "label_names"]
        with paddle.no_grad():
            expected = softmax(fused(paddle.to_tensor(network_input(Path(result["file_name"]), rule)[None])).numpy())[0]
        order = np.argsort(-expected)[:3]
        assert result["class_ids"] == order.tolist()
        np.testing.assert_allclose(result["scores"], expected[order], atol=1.1e-5)
        assert result["label_names"] == [CLASSES[index] for index in order]


@pytest.mark.parametrize("arguments", [("--batch-size", 1), ("--batch-size", 2), ("--threads", 1), ()])
def test_batches_and_threads_do_not_matter(exported, pictures, capsys, arguments):
    _, path, _ = exported
    everything = infer(capsys, "--model", path, "--json", pictures)
    assert infer(capsys, "--model", path, "--json", pictures, *arguments) == everything


def test_saved_images_are_decoded_once(exported, pictures, capsys, tmp_path, monkeypatch):
    opened = []
    monkeypatch.setattr(
        "PIL.JpegImagePlugin.JpegImageFile.load_prepare",
        lambda image, prepare=JpegImagePlugin.JpegImageFile.load_prepare: opened.append(image) or prepare(image),
    )
    code, _, _ = infer(
        capsys, "--model", exported[1], pictures / "b.jpg", pictures / "c.JPEG", "--save-image", tmp_path
    )
    assert code == 0
    assert {path.name for path in tmp_path.glob("*.png")} == {"b.png", "c.png", "sheet-01.png"}
    assert len(opened) == 2


def test_a_line_an_image(exported, pictures, capsys):
    _, path, _ = exported
    code, out, err = infer(capsys, "--model", path, pictures / "a.png", "--topk", 99, pictures / "b.jpg")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert [line.split("   ")[0] for line in lines] == [str(pictures / "a.png"), str(pictures / "b.jpg")]
    for line in lines:
        scores = [float(score) for score in re.findall(r" (\d\.\d\d)", line)]
        assert len(scores) == len(CLASSES), "all classes where there are fewer than asked for"
        assert scores == sorted(scores, reverse=True)
        assert sum(scores) == pytest.approx(1, abs=0.03)
    assert "菊花 " in lines[0]


def test_options_stand_anywhere(exported, pictures, capsys):
    _, path, _ = exported
    expected = infer(capsys, path, pictures / "a.png", pictures / "b.jpg", "--topk", 1, "--csv")
    assert expected[0] == 0
    for arguments in (
        [path, "--topk", 1, pictures / "a.png", "--csv", pictures / "b.jpg"],
        ["--csv", path, pictures / "a.png", "--topk=1", pictures / "b.jpg"],
        ["--topk", 1, "--csv", "--model", path, pictures / "a.png", pictures / "b.jpg"],
        ["--topk", 1, "--csv", path, "--", pictures / "a.png", pictures / "b.jpg"],
    ):
        assert infer(capsys, *arguments) == expected


def test_a_table_on_stdout_is_the_file_of_out(exported, pictures, capsys, tmp_path):
    code, out, _ = infer(capsys, exported[1], pictures, "--csv", "--out", tmp_path / "r.csv")
    assert code == 0
    assert out.encode() == (tmp_path / "r.csv").read_bytes()
    with pytest.raises(SystemExit):
        main([str(exported[1]), str(pictures), "--csv", "--json"])


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\0"])
def test_names_on_stdin(exported, pictures, capsys, monkeypatch, end):
    """They are no patterns, and one that is missing is named as any other."""
    names = [pictures / "a.png", pictures / "[b].jpg", pictures / "missing[1].jpg"]
    (pictures / "b.jpg").rename(names[1])
    data = end.join(os.fsencode(name) for name in names) + end
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(data)))
    code, out, err = infer(capsys, exported[1], "-", pictures / "c.JPEG", "--json")
    assert code == 1
    found = [Path(result["file_name"]).name for result in json.loads(out)]
    assert found == ["a.png", "[b].jpg", "c.JPEG"]
    assert err.startswith(f"error: {names[2]}: ")
    assert err.count("\n") == 1


@pytest.mark.parametrize(("data", "said"), [(b"", "no names"), (b"\n\n", "no names"), (b"\x89PNG\r\n\0", "an image")])
def test_no_names_on_stdin(exported, capsys, monkeypatch, data, said):
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(data)))
    code, out, err = infer(capsys, exported[1], "-")
    assert (code, out) == (1, "")
    assert err.startswith(f"error: stdin holds {said}")


def test_a_terminal_that_cannot_show_the_names(exported, pictures):
    command = [sys.executable, str(ROOT / "tools" / "infer_onnx.py"), "--model", str(exported[1]), str(pictures)]
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, left_out(pictures))
    assert "\\u83ca" in done.stdout


def test_a_fixed_batch_and_logits(pictures, tmp_path, capsys, exported):
    path = tmp_path / "fixed.onnx"
    plain = Metadata(METADATA.architecture, METADATA.preprocessing)
    options = {"image_shape": (3, PIXELS, PIXELS), "metadata": plain.to_properties()}
    export_onnx(make_net(), path, batch=4, softmax=False, **options)
    code, out, err = infer(capsys, "--model", path, "--json", pictures)  # five images: a full batch, and one image
    assert (code, err) == (0, left_out(pictures))
    expected = json.loads(infer(capsys, "--model", exported[1], "--json", pictures)[1])
    for got, wanted in zip(json.loads(out), expected):
        assert got["class_ids"] == wanted["class_ids"]
        np.testing.assert_allclose(got["scores"], wanted["scores"], atol=1.1e-5)
        assert got["label_names"] == []
    code, out, err = infer(capsys, "--model", path, "--batch-size", 3, pictures)
    assert (code, out) == (1, "")
    assert "--batch-size is 3" in err
    assert "exported for 4" in err


def test_what_cannot_be_read_is_named_and_the_others_go_on(exported, pictures, capsys):
    _, path, _ = exported
    (pictures / "b.jpg").write_bytes(b"")
    names = [pictures / "missing.jpg", pictures, pictures / "notes.txt"]
    code, out, err = infer(capsys, "--model", path, "--json", "--batch-size", 2, *names)
    assert code == 1
    assert [Path(result["file_name"]).name for result in json.loads(out)] == ["a.png", "c.JPEG", "d.bmp", "e.webp"]
    first, *lines = err.splitlines(keepends=True)
    assert first == left_out(pictures)
    assert len(lines) == 3
    for line, name in zip(lines, ("missing.jpg", "b.jpg", "notes.txt")):
        assert line.startswith(f"error: {pictures / name}: ")


def test_nothing_readable_is_still_a_document(exported, pictures, capsys):
    code, out, _ = infer(capsys, "--model", exported[1], "--json", pictures / "notes.txt")
    assert (code, json.loads(out)) == (1, [])


def test_finding_images(pictures, monkeypatch):
    monkeypatch.chdir(pictures)
    five = [Path(name) for name in ("a.png", "b.jpg", "c.JPEG", "d.bmp", "e.webp")]
    assert find_images(["."]) == five
    assert find_images(["*.jpg", "a.png", "./b.jpg", str(pictures / "a.png")]) == five[1::-1]  # the folder is none
    assert find_images(["notes.txt", "missing.jpg"]) == [Path("notes.txt"), Path("missing.jpg")]  # as named
    Path("[1].png").write_bytes(Path("a.png").read_bytes())
    assert find_images(["[1].png"]) == [Path("[1].png")]
    for name in ("*.tiff", "inside.jpg"):
        with pytest.raises(PpclsExtError, match=r"no image found|holds no image") as caught:
            find_images(["a.png", name])
        assert name in str(caught.value)


def test_an_image_of_one_pixel(exported, tmp_path, capsys):
    Image.new("RGB", (1, 1), (200, 100, 0)).save(tmp_path / "dot.png")
    code, out, _ = infer(capsys, "--model", exported[1], "--json", tmp_path / "dot.png")
    assert code == 0
    assert len(json.loads(out)) == 1


def without_metadata(path: Path) -> bytes:
    model = onnx.load(path)
    del model.metadata_props[:]
    return model.SerializeToString()


def with_other_size(path: Path) -> bytes:
    model = onnx.load(path)
    for entry in model.metadata_props:
        entry.value = entry.value.replace('"crop": [16, 16]', '"crop": [8, 16]')
    return model.SerializeToString()


def with_two_inputs(path: Path) -> bytes:
    model = onnx.load(path)
    model.graph.input.append(onnx.helper.make_tensor_value_info("more", onnx.TensorProto.FLOAT, [1, 3, 16, 16]))
    return model.SerializeToString()


def with_two_outputs(path: Path) -> bytes:
    model = onnx.load(path)
    model.graph.output.append(model.graph.output[0].__class__.FromString(model.graph.output[0].SerializeToString()))
    model.graph.output[1].name = model.graph.node[0].output[0]
    model.graph.output[1].type.tensor_type.ClearField("shape")
    return model.SerializeToString()


def of_metadata(path: Path, input_type: int, input_shape: list, output_shape: list, operator: str = "") -> bytes:
    """A network of one node with the metadata of a real one."""
    make = onnx.helper.make_tensor_value_info
    node = onnx.helper.make_node(operator or "Flatten", ["x"], ["logits"])
    ends = [make("x", input_type, input_shape)], [make("logits", input_type, output_shape)]
    graph = onnx.helper.make_graph([node], "g", *ends)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    model.metadata_props.extend(onnx.load(path).metadata_props)
    return model.SerializeToString()


FLOAT, INT64 = onnx.TensorProto.FLOAT, onnx.TensorProto.INT64


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (with_two_inputs, "the network has the inputs tensor"),
        (with_two_outputs, "the network has the outputs tensor"),
        (lambda path: of_metadata(path, INT64, ["n", 3, 16, 16], ["n", 768]), r"the inputs tensor\(int64\)"),
        (lambda path: of_metadata(path, FLOAT, [], [1, 1], "Shape"), "cannot load it|the inputs"),
        (lambda path: of_metadata(path, FLOAT, ["n", 3, 16, 16], ["n", 3, 16, 16], "Relu"), "the outputs tensor"),
        (lambda path: None, "no such file"),
        (lambda path: b"", "onnxruntime cannot load it"),
        (lambda path: b"no graph", "onnxruntime cannot load it"),
        (lambda path: path.read_bytes()[:1000], "onnxruntime cannot load it"),
        (without_metadata, "does not say how to prepare its images"),
        (with_other_size, r"reads images of shape \[3, 16, 16\]"),
    ],
)
def test_broken_models(exported, pictures, tmp_path, capsys, content, said):
    path = tmp_path / "model.onnx"
    made = content(exported[1])
    if made is not None:
        path.write_bytes(made)
    with pytest.raises(PpclsExtError, match=said):
        Classifier(path)
    code, out, err = infer(capsys, "--model", path, pictures)
    assert (code, out) == (1, "")
    assert err.startswith(f"error: {path}: ")
    assert err.count("\n") == 1


@pytest.mark.parametrize("arguments", [["--topk", "0"], ["--topk", "-1"], ["--batch-size", "x"], ["--threads", "1.5"]])
def test_bad_usage(arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        main(["--model", "m.onnx", "a.jpg", *arguments])
    assert caught.value.code == 2
    assert "expected a whole number from 1" in capsys.readouterr().err


def test_missing_onnxruntime(exported, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(PpclsExtError, match=r'onnxruntime is missing: pip install "ppcls-ext\[predict\]"'):
        Classifier(exported[1])


ALONE = """
import runpy, sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"paddle", "paddle2onnx", "ppcls", "paddleclas", "onnx", "onnxslim", "cv2"}:
            raise ModuleNotFoundError("blocked: " + name, name=name)
sys.meta_path.insert(0, Blocker())
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def test_it_runs_without_paddle_onnx_and_opencv(exported, pictures, tmp_path):
    """From another folder, in a process where none of them can be imported."""
    tool = [sys.executable, "-c", ALONE, str(ROOT / "tools" / "infer_onnx.py")]
    command = [*tool, "--model", str(exported[1]), "--json", str(pictures)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, encoding="utf-8", check=False)
    assert (done.returncode, done.stderr) == (0, left_out(pictures))
    assert len(json.loads(done.stdout)) == 5
    shown = subprocess.run([*tool, "--help"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert shown.returncode == 0
    assert "example" in shown.stdout


def test_images_are_decoded_ahead_but_not_all_of_them(exported, pictures, monkeypatch):
    """The order stays whatever takes long, and no more inputs are in memory than a few batches."""
    prepared, network = [], Classifier(exported[1])

    def prepare(image, rule, whole):
        time.sleep(0.02 * (len(prepared) % 3))
        prepared.append(image)
        return network_input(image, rule, whole)

    monkeypatch.setattr("ppcls_ext.predict.classifier.network_input", prepare)
    files = [pictures / name for name in ("a.png", "missing.png", "b.jpg", "notes.txt", "c.JPEG")] * 20
    seen = []
    for file, result, _ in classify(network, files, 2, Choice(network.metadata)):
        seen.append(file)
        assert isinstance(result, PpclsExtError) == (file.name in ("missing.png", "notes.txt"))
        assert len(prepared) <= len(seen) + (AHEAD + 1) * 2
    assert seen == files


def test_a_bomb_is_refused_in_every_thread(exported, pictures, tmp_path, monkeypatch):
    """The filters of warnings belong to all threads: each sees them as an error, and they are as before at the end."""
    monkeypatch.setenv("PPCLS_EXT_MAX_IMAGE_PIXELS", str(24 * 30 - 1))
    network, filters = Classifier(exported[1]), warnings.filters[:]
    results = list(classify(network, [pictures / "b.jpg", pictures / "a.png"] * 50, 4, Choice(network.metadata)))
    assert all(isinstance(result, PpclsExtError) for _, result, _ in results)
    assert warnings.filters == filters


def test_an_interruption_ends_the_threads(exported, pictures):
    before = threading.active_count()
    found = classify(Classifier(exported[1]), [pictures / "a.png"] * 100, 2, Choice(METADATA))
    next(found)
    found.close()
    assert threading.active_count() == before


@pytest.mark.parametrize("name", ["r.csv", "r.json"])
def test_an_interrupted_prediction_is_taken_up(exported, pictures, capsys, tmp_path, monkeypatch, name):
    arguments = ["--model", exported[1], "--batch-size", 1, pictures]
    assert infer(capsys, *arguments, "--out", tmp_path / f"whole-{name}")[0] == 0
    with monkeypatch.context() as patch:
        patch.setattr("ppcls_ext.predict.results.ResultsWriter.add", interrupted_at(3))
        code, _, err = infer(capsys, *arguments, "--out", tmp_path / name, "--resume")
    assert code == 1
    (part,) = tmp_path.glob(f"{name}.*.part")
    assert f"error: interrupted: the results so far are in {part}; the same command goes on from there" in err
    code, out, err = infer(capsys, *arguments, "--out", tmp_path / name, "--resume", "--json")
    assert (code, f"{part} holds the results of 2 images: they are taken up" in err) == (0, True)
    assert [Path(result["file_name"]).name for result in json.loads(out)] == ["c.JPEG", "d.bmp", "e.webp"]
    assert (tmp_path / name).read_bytes() == (tmp_path / f"whole-{name}").read_bytes()
    code, out, err = infer(capsys, *arguments, "--out", tmp_path / name, "--resume")
    assert (code, out) == (0, "")
    with monkeypatch.context() as patch:
        patch.setattr("ppcls_ext.predict.results.ResultsWriter.add", interrupted_at(1))
        assert infer(capsys, *arguments, "--out", tmp_path / name)[0] == 1
    assert (tmp_path / name).read_bytes() == (tmp_path / f"whole-{name}").read_bytes(), "it is as before"


def interrupted_at(number: int):
    """`ResultsWriter.add`, interrupted behind so many results."""
    add, calls = ResultsWriter.add, []

    def interrupt(writer, result):
        if len(calls) == number:
            raise KeyboardInterrupt
        calls.append(result)
        add(writer, result)

    return interrupt


def test_resume_belongs_to_out(exported, pictures, capsys, tmp_path):
    for more in ([], ["--out", tmp_path / "r.csv", "--save-image", tmp_path]):
        with pytest.raises(SystemExit, match="2"):
            infer(capsys, exported[1], pictures, "--resume", *more)


def test_a_results_file_that_cannot_be_written_is_said_before_the_work(exported, pictures, capsys, tmp_path):
    (tmp_path / "r.csv").mkdir()
    code, out, err = infer(capsys, exported[1], pictures, "--out", tmp_path / "r.csv")
    assert (code, out) == (1, "")
    assert "r.csv: it is a folder" in err


@pytest.mark.parametrize("length", [1249, 6_000_000])
def test_long_names_that_a_terminal_and_a_spreadsheet_would_obey(pictures, capsys, tmp_path, exported, length):
    """Of a name within reason the beginning is printed and all is written; any other is none."""
    model = onnx.load(exported[1])
    (entry,) = (entry for entry in model.metadata_props if entry.key == "class_names")
    entry.value = json.dumps(["=cmd\x1b[2J" * length, *CLASSES[1:]])
    onnx.save(model, tmp_path / "long.onnx")
    code, out, err = infer(capsys, tmp_path / "long.onnx", pictures / "a.png", "--out", tmp_path / "r.csv")
    if length > 10_000:
        assert (code, out) == (1, "")
        assert "damaged (a class name has 48,000,000 characters): export it again" in err
        return
    assert code == 0
    assert len(out) < 2000
    assert "  =cmd\\x1b[2J=cmd\\x1b[2J" in out
    table = (tmp_path / "r.csv").read_text()
    assert "\x1b" not in out + table
    assert ",'" + "=cmd\\x1b[2J" * length + "," in table
