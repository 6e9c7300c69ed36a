"""The commands predict and infer: one grammar for exported files, runs, weights in them and configurations."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import numpy as np
import paddle
import pytest
import yaml

import ppcls_ext
from ppcls_ext.commands.main import main
from tests.helpers import needs_converter
from tests.tiny_run import ARCH

IMAGES = ("png/00.png", "png/01.png", "png/02.png")


def printed(capsys, *arguments: object) -> tuple[int, str, str]:
    code = main([str(argument) for argument in arguments])
    said = capsys.readouterr()
    return code, said.out, said.err


def test_infer_and_predict_are_one_command(tiny_run, capsys):
    first = printed(capsys, "predict", tiny_run, *IMAGES)
    assert first[0] == 0
    assert [line.split()[0] for line in first[1].splitlines()] == list(IMAGES)
    assert printed(capsys, "infer", tiny_run, *IMAGES) == first
    for name in ("best_model", "best_model.pdparams"):
        assert printed(capsys, "predict", tiny_run / name, *IMAGES)[1] == first[1]
    config = ("-c", tiny_run / "config.yml", "-o", f"Global.pretrained_model={tiny_run / 'best_model'}")
    assert printed(capsys, "infer", *IMAGES, *config)[1] == first[1]


@needs_converter
def test_a_run_its_file_and_its_program_say_the_same(tiny_run, capsys):
    assert main(["export-onnx", str(tiny_run)]) == 0
    assert main(["export-model", str(tiny_run)]) == 0
    capsys.readouterr()
    tables = []
    for model in (tiny_run, tiny_run / f"{ARCH}.onnx", tiny_run / "inference"):
        for name in ("infer", "predict"):
            code, out, _ = printed(capsys, name, model, "--json", *IMAGES)
            assert code == 0
            tables.append(json.loads(out))
    assert tables[0] == tables[1]
    for table in tables[2:]:
        for result, expected in zip(table, tables[0]):
            assert result["scores"] == pytest.approx(expected["scores"], abs=2e-5)
            assert {**result, "scores": None} == {**expected, "scores": None}


def test_a_run_without_images_takes_those_of_its_settings(tiny_run, capsys):
    code, out, _ = printed(capsys, "predict", tiny_run, "--csv", "--topk", 1)
    assert (code, len(out.splitlines())) == (0, 1 + 24)


def test_topk_of_the_settings_counts(tiny_run, capsys):
    override = ("-o", "Infer.PostProcess.topk=1")
    assert len(json.loads(printed(capsys, "predict", tiny_run, "--json", *IMAGES, *override)[1])[0]["class_ids"]) == 1
    both = printed(capsys, "predict", tiny_run, "--json", "--topk", 2, *IMAGES, *override)
    assert len(json.loads(both[1])[0]["class_ids"]) == 2


def test_a_run_resumes(tiny_run, capsys, tmp_path):
    """Its logs do not count, its weights do."""
    out = ("--out", tmp_path / "r.csv", "--resume")
    assert printed(capsys, "predict", tiny_run, IMAGES[0], *out)[0] == 0
    code, said, err = printed(capsys, "predict", tiny_run, *IMAGES, *out)
    assert (code, len(said.splitlines())) == (0, 2)
    assert "r.csv holds the results of 1 images" in err
    assert printed(capsys, "predict", tiny_run, *IMAGES, "--out", tmp_path / "whole.csv")[0] == 0
    assert (tmp_path / "whole.csv").read_bytes() == (tmp_path / "r.csv").read_bytes()


def test_a_video(tiny_run, capsys, tmp_path):
    cv2 = pytest.importorskip("cv2")
    writer = cv2.VideoWriter(str(tmp_path / "v.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 4, (32, 32))
    for _ in range(8):
        writer.write(np.zeros((32, 32, 3), np.uint8))
    writer.release()
    code, out, _ = printed(capsys, "infer", tiny_run, "--video", tmp_path / "v.avi")
    assert (code, [line.split()[0] for line in out.splitlines()]) == (0, ["0:00:00", "0:00:01"])


def test_another_architecture_goes_through_paddleclas(tiny_settings, tmp_path, capsys):
    """With PaddleClas's transforms and post-processing, and the same lines."""
    tiny_settings["Arch"] = {"name": "MobileNetV3_small_x0_35", "class_num": 2}
    Path("other.yml").write_text(yaml.safe_dump(tiny_settings), encoding="utf-8")
    (tmp_path / "broken.png").write_bytes(b"\x89PNG")
    command = ("predict", "-c", "other.yml", IMAGES[0], "broken.png", *IMAGES[1:], "--batch-size", 2)
    code, out, err = printed(capsys, *command, "--out", "r.json", "--save-image", "drawn")
    assert code == 1
    assert [line.split()[0] for line in out.splitlines()] == list(IMAGES)
    assert "error: broken.png: damaged" in err
    results = json.loads(Path("r.json").read_text(encoding="utf-8"))
    assert [result["file_name"] for result in results] == list(IMAGES)
    assert all(sorted(result["label_names"]) == ["green", "red"] for result in results)
    assert len(list(Path("drawn").glob("*.png"))) == 4
    assert printed(capsys, "predict", "-c", "other.yml", "--video", "v.avi")[0] == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nowhere", "a.jpg"], "nowhere is no run: expected the folder that a training wrote, such as "),
        (["{run}", "a.jpg", "--runtime", "openvino"], "--runtime: for exported files; {run} is run by Paddle"),
        (["{run}", "a.jpg", "--threads", "2"], "--threads: for exported files; {run} is run by Paddle"),
        (["w.pth", "a.jpg"], "w.pth holds weights, and no config.yml beside it says how to use them: give the folder"),
        (["{run}", "-o", "Infer.infer_imgs=null"], "there are no images: name some behind the model"),
        (["m.onnx", "a.jpg", "-o", "Global.seed=1"], "m.onnx is an exported file: -o and -v belong to a run or a"),
    ],
)
def test_what_does_not_go_together(arguments, said, tiny_run, capsys):
    Path("w.pth").write_bytes(b"")
    code, out, err = printed(capsys, "predict", *(word.format(run=tiny_run) for word in arguments))
    assert (code, out) == (1, "")
    assert err.splitlines()[-1].startswith(f"error: {said.format(run=tiny_run)}")


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["m.onnx"],
        ["--model", "m.onnx", "-c", "c.yml"],
        ["m.onnx", "a.jpg", "--resume"],
        ["{run}", "--paddleclas", "--json"],
        ["{run}", "--paddleclas", "--topk", "1"],
    ],
)
def test_bad_usage(arguments, tiny_run, capsys):
    with pytest.raises(SystemExit) as caught:
        main(["predict", *(word.format(run=tiny_run) for word in arguments)])
    assert caught.value.code == 2


def test_one_process(tiny_run, capsys, monkeypatch):
    monkeypatch.setenv("PADDLE_TRAINERS_NUM", "2")
    code, out, err = printed(capsys, "predict", tiny_run, *IMAGES)
    assert (code, out) == (1, "")
    assert err == "error: ppcls-ext predict runs in one process: several would all do the same images\n"


def test_paddleclas_own_output_stays_for_its_tool(tiny_run, run_tool, capsys):
    """tools/infer.py prints a list for each batch, as PaddleClas does; `--paddleclas` asks for the same."""
    done = run_tool("infer", tiny_run, *IMAGES, cwd=Path.cwd())
    assert done.returncode == 0
    lines = done.stdout.splitlines()
    assert lines[0] == f"{tiny_run}: loading Paddle and PaddleClas"
    (results,) = map(ast.literal_eval, lines[1:])
    assert [list(result) for result in results] == [["class_ids", "scores", "file_name", "label_names"]] * 3
    assert printed(capsys, "predict", tiny_run, "--paddleclas", *IMAGES)[1] == done.stdout
    ours = json.loads(printed(capsys, "predict", tiny_run, "--json", *IMAGES)[1])
    for result, expected in zip(results, ours):
        assert result["scores"] == pytest.approx(expected["scores"], abs=2e-5)
        assert {**result, "scores": None} == {**expected, "scores": None}


def test_weights_beside_no_run_are_for_a_configuration(tiny_settings, capsys):
    paddle.save(ppcls_ext.build(ARCH, class_num=2).state_dict(), "w.pdparams")
    Path("tiny.yml").write_text(yaml.safe_dump(tiny_settings), encoding="utf-8")
    assert printed(capsys, "predict", "w.pdparams", IMAGES[0])[0] == 1
    code, out, err = printed(capsys, "predict", "-c", "tiny.yml", "-o", "Global.pretrained_model=w", "--topk", 1)
    assert (code, len(out.splitlines())) == (0, 24)
    assert "random" not in err
