"""`ppcls-ext doctor`: what is well, what is a problem and what to do about it."""

from __future__ import annotations

import importlib.util
import re
import shutil
import sys
from pathlib import Path

import paddle
import pytest
import yaml

from ppcls_ext import build, cpu, doctor
from ppcls_ext.commands.doctor import main
from ppcls_ext.commands.outcome import run
from ppcls_ext.data.lists import read_list
from ppcls_ext.doctor import CHECKS, Finding, run_check
from tests.helpers import needs_converter


def lines(text: str) -> dict[str, tuple[str, str]]:
    """Name → (status, text)."""
    found = {}
    for line in text.splitlines():
        if line.startswith(("ok ", "problem ")):
            status, rest = line[:8].strip(), line[9:]
            found[rest[:12].strip()] = (status, rest[13:])
    return found


WITHOUT_WHEEL = {"paddle2onnx"} if importlib.util.find_spec("paddle2onnx") is None else set()  # for Python 3.13


def test_everything_in_one_screen(capsys):
    assert main([]) == len(WITHOUT_WHEEL), capsys.readouterr().out
    output = capsys.readouterr().out
    found = lines(output)
    assert set(found) == set(CHECKS)
    assert {name for name, (status, _) in found.items() if status != "ok"} == WITHOUT_WHEEL
    assert len(output.splitlines()) < 24
    assert output.splitlines()[-1] == ("1 problem" if WITHOUT_WHEEL else "no problems")
    assert found["Paddle"][1].startswith("3.")
    assert "with the training engine" in found["PaddleClas"][1]
    used = r"\d+\.\d+\.\d+ of Paddle, used on CPUs; (--bf16 computes by .*|no bfloat16 on this processor)"
    assert re.fullmatch(rf"{used}|not used, .*|switched off.*", found["oneDNN"][1])


@needs_converter
@pytest.mark.parametrize(
    ("package", "name", "advice"),
    [
        ("onnxslim", "paddle2onnx", 'the package onnxslim is missing: pip install "ppcls-ext[onnx]"'),
        ("onnxruntime", "onnxruntime", 'the package onnxruntime is missing: pip install "ppcls-ext[predict]"'),
        ("faiss", "its needs", 'without faiss: pip install "ppcls-ext[train]"'),
    ],
)
def test_a_missing_package_is_a_problem(capsys, monkeypatch, package, name, advice):
    there = doctor.importlib.util.find_spec
    monkeypatch.setattr(
        doctor.importlib.util, "find_spec", lambda wanted: (wanted != package and there(wanted)) or None
    )
    assert main(["-c", "MobileOne_S0"] if name == "its needs" else []) == 1
    output = capsys.readouterr().out
    status, text = lines(output)[name]
    assert status == "problem"
    assert advice in text
    assert output.splitlines()[-1] == "1 problem"
    assert ("MobileOne_S0 can be tried once training is possible" in output) == (name == "its needs")


def test_paddleclas_without_engine(monkeypatch, tmp_path):
    (tmp_path / "ppcls" / "arch").mkdir(parents=True)
    (tmp_path / "ppcls" / "arch" / "__init__.py").touch()
    for name in [name for name in sys.modules if name.split(".")[0] == "ppcls"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setenv("PADDLECLAS_HOME", str(tmp_path))
    finding = doctor.check_paddleclas()
    assert "without the training engine" in finding.text
    assert "paddleclas==2.4.2" in finding.advice
    monkeypatch.setenv("PADDLECLAS_HOME", str(tmp_path / "nowhere"))
    assert "which is no PaddleClas" in doctor.check_paddleclas().advice


def test_onednn(monkeypatch):
    from ppcls_ext.onednn import find

    monkeypatch.setattr(find, "library", lambda: None)
    assert doctor.check_onednn().text.startswith("not used, training on the CPU is slower: none in this Paddle")
    monkeypatch.setattr(find, "library", lambda: find.warnings.warn("it differs", stacklevel=1))
    assert doctor.check_onednn().text.endswith("slower: it differs")
    monkeypatch.setenv(find.VARIABLE, "0")
    assert doctor.check_onednn() == Finding(
        "oneDNN", "switched off by PPCLS_EXT_ONEDNN=0: training on the CPU is slower"
    )


def test_threads(monkeypatch):
    monkeypatch.setattr(cpu, "usable_cores", lambda: 8)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert doctor.check_threads().text.startswith("8, all cores")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert "unset OMP_NUM_THREADS to use all 8 cores" in doctor.check_threads().text
    monkeypatch.setenv("OMP_NUM_THREADS", "many")
    assert doctor.check_threads().advice


def test_memory_of_a_container(monkeypatch):
    files = {
        "/proc/meminfo": "MemTotal:       33554432 kB\nMemAvailable:   16777216 kB\n",
        "/sys/fs/cgroup/memory.max": "4294967296\n",
        "/sys/fs/cgroup/memory.current": "3221225472\n",
    }
    monkeypatch.setattr(doctor, "_read", lambda path: files.get(path, ""))
    assert doctor.check_memory() == Finding("memory", "1.0 of 4.0 GiB free", doctor.check_memory().advice)
    assert doctor.check_memory().advice
    files.pop("/sys/fs/cgroup/memory.max")
    assert doctor.check_memory() == Finding("memory", "16.0 of 32.0 GiB free")
    files.clear()
    assert doctor.check_memory().text == "unknown on this system"


def test_a_gpu_that_this_paddle_cannot_use(monkeypatch):
    import paddle

    monkeypatch.setattr(doctor, "_nvidia_gpus", lambda: ["NVIDIA A1"])
    monkeypatch.setattr(paddle.device, "is_compiled_with_cuda", lambda: False)
    assert "install paddlepaddle-gpu" in doctor.check_gpu().advice
    monkeypatch.setattr(paddle.device, "is_compiled_with_cuda", lambda: True)
    monkeypatch.setattr(paddle.device.cuda, "device_count", lambda: 0)
    assert "check the driver" in doctor.check_gpu().advice
    monkeypatch.setattr(paddle.device.cuda, "device_count", lambda: 1)
    assert doctor.check_gpu() == Finding("GPU", "1 for Paddle: NVIDIA A1")


def test_a_check_that_breaks_is_a_problem():
    assert run_check("thing", lambda: 1 / 0) == Finding("thing", "ZeroDivisionError", "division by zero")
    assert str(Finding("a", "b\nc", "d")) == "problem  a            b c: d"


def test_a_configuration(config, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    config["Arch"]["name"] = "FasterNet_T0"
    (tmp_path / "tiny.yml").write_text(yaml.safe_dump(config))
    assert run(lambda: main(["-c", "tiny.yml"])) == len(WITHOUT_WHEEL)
    output = capfd.readouterr()
    found = lines(output.out)
    assert found["data"] == ("ok", "Train 24 images of 2 classes, Eval 20 images of 2 classes")
    assert found["model"][1].startswith("FasterNet_T0, 2.63 M parameters, on the cpu")
    assert found["schedule"] == ("ok", "1 epoch of 3 batches of 8, Momentum, learning rate 0.01")
    assert found["evaluation"] == ("ok", "one batch works; the best epoch is chosen by top1, the greater the better")
    assert found["one batch"][1].endswith(" s for 8 images of 32 × 32 px")
    assert found["one step"][1].split("; ")[1].startswith("3 steps are an epoch, about ")
    assert "ppcls INFO" not in output.out + output.err
    assert [path.name for path in tmp_path.iterdir()] == ["tiny.yml"], "nothing is written"


@pytest.fixture
def photos(tmp_path, monkeypatch, dataset) -> Path:
    """A folder of two class folders with 12 images each, and a file that is none."""
    monkeypatch.chdir(tmp_path)
    for path in sorted((dataset / "png").iterdir()):
        place = tmp_path / "photos" / ("red", "green")[int(path.stem) % 2]
        place.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, place)
    (tmp_path / "photos" / "red" / "broken.jpg").write_bytes(b"")
    return tmp_path


SMALL = ("Global.image_size=32", "DataLoader.Train.sampler.batch_size=8", "DataLoader.Train.loader.num_workers=0")


def test_ones_own_images(photos, capfd):
    paddle.save(build("FasterNet_T0", class_num=2).state_dict(), "start.pdparams")
    frozen = ("Recipe.freeze=backbone", "Global.pretrained_model=start.pdparams")
    before = sorted(photos.rglob("*"))
    arguments = ["FasterNet_T0", "--data", "photos", "-o", *SMALL, *frozen]
    assert run(lambda: main(arguments)) == len(WITHOUT_WHEEL)
    found = lines(capfd.readouterr().out)
    assert found["images"] == ("ok", "left out: 1 unreadable")
    assert found["data"][1].startswith("Train 20 images of 2 classes, Eval 4 images of 2 classes")
    assert found["model"][1] == "FasterNet_T0, 0.00 M parameters, on the cpu", "the classifier's"
    assert found["one batch"][1].endswith(" s for 8 images of 32 × 32 px")
    assert sorted(photos.rglob("*")) == before, "nothing is written"


def test_images_that_cannot_be_trained_on(photos, capfd):
    (photos / "labels.csv").write_text("image,red,green\nred/no.png,1,0\n")
    for arguments, said in (
        (["--data", "photos/red"], "at least 2 are needed"),
        (["--data", "photos", "--labels", "labels.csv"], "no image shows the class 'green'"),
    ):
        assert run(lambda: main(["FasterNet_T0", *arguments])) == 1  # noqa: B023
        found = lines(capfd.readouterr().out)
        assert list(found)[-1] == "images"
        assert found["images"][0] == "problem"
        assert said in found["images"][1]


@pytest.mark.parametrize("fault", ["a picture is missing", "a picture is broken", "no batch", "a loss cannot work"])
def test_a_configuration_with_a_problem(config, dataset, tmp_path, monkeypatch, capfd, fault):
    monkeypatch.chdir(tmp_path)
    config["Arch"]["name"] = "FasterNet_T0"
    shutil.copytree(dataset, "data")
    for loader in ("Train", "Eval"):
        config["DataLoader"][loader]["dataset"]["image_root"] = "data"
    name, text = "data", "png/00.png"
    if fault == "a picture is missing":
        (tmp_path / "data" / "png" / "00.png").unlink()
    elif fault == "a picture is broken":
        for file in (tmp_path / "data" / "png").iterdir():
            file.write_bytes(b"")
        name, text = "model", "png"
    elif fault == "a loss cannot work":
        config["Loss"]["Eval"] = [{"TripletLoss": {"weight": 1.0}}]
        config["Global"]["patience"] = 3
        name, text = "evaluation", "Loss.Eval.0.TripletLoss does not work on 8×2 with labels 8×1: "
    else:
        config["DataLoader"]["Train"]["sampler"].update(batch_size=100, drop_last=True)
        name, text = "data", "batch"
    (tmp_path / "tiny.yml").write_text(yaml.safe_dump(config))
    assert run(lambda: main(["-c", "tiny.yml"])) == 1
    found = lines(capfd.readouterr().out)
    assert found[name][0] == "problem", found
    assert text in found[name][1]
    assert list(found)[-1] == name, "the rest needs it"


@pytest.mark.parametrize(("few", "said"), [(1, True), (2, False)])
def test_unequal_classes_are_said(tmp_path, few, said):
    (tmp_path / "a.jpg").touch()
    (tmp_path / "list.txt").write_text("a.jpg 0\n" * 10 + "a.jpg 2\n" * few)
    found = doctor._imbalance(read_list(tmp_path / "list.txt", tmp_path, 3), ("rose", "none", "iris"))
    text = "; rose has 10 images and iris has 1: train with --class-weights balanced or --sampler balanced"
    assert found == (text if said else "")
