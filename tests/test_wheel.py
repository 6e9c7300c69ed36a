"""The built packages: complete, and enough to work with from an empty folder, without a checkout."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from importlib.metadata import distribution, version
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[1]
pytestmark = pytest.mark.slow
#: What `pip install ppcls-ext[predict]` brings.
LIGHT = ("numpy", "pillow", "pyyaml", "safetensors", "onnxruntime")


class Built(NamedTuple):
    sdist: Path
    wheel: Path
    output: str


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Built:
    """The sdist of this tree, and the wheel that is built from it."""
    if int(version("setuptools").split(".")[0]) < 77:
        pytest.skip("needs setuptools 77, which the extra [dev] brings")
    folder = tmp_path_factory.mktemp("dist")
    tree = folder / "tree"
    ignored = shutil.ignore_patterns(
        ".git", ".venv", "*.egg-info", "__pycache__", "build", "dist", ".*_cache", "output*"
    )
    shutil.copytree(ROOT, tree, ignore=ignored)
    output = build("sdist", tree, folder)
    (sdist,) = folder.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        archive.extractall(folder / "unpacked")
    (source,) = (folder / "unpacked").iterdir()
    output += build("wheel", source, folder)
    (wheel,) = folder.glob("*.whl")
    return Built(sdist, wheel, output)


def build(kind: str, tree: Path, folder: Path) -> str:
    code = f"import setuptools.build_meta as backend; backend.build_{kind}({str(folder)!r})"
    done = subprocess.run([sys.executable, "-c", code], cwd=tree, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def metadata(wheel: Path) -> str:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith("/METADATA"))
        return archive.read(name).decode()


def test_contents(built):
    with zipfile.ZipFile(built.wheel) as archive:
        names = set(archive.namelist())
    modules = {path.relative_to(ROOT).as_posix() for path in (ROOT / "ppcls_ext").rglob("*.py")}
    assert modules <= names
    assert "ppcls_ext/py.typed" in names
    assert {name.split("/")[0] for name in names if ".dist-info" not in name} == {"ppcls_ext"}
    with tarfile.open(built.sdist) as archive:
        in_sdist = {name.split("/", 1)[1] for name in archive.getnames() if "/" in name}
    for part in ("tests/test_wheel.py", "tests/reference/shapes.json", "configs/MobileOne_S0.yml", "tools/train.py"):
        assert part in in_sdist or not (ROOT / part).exists(), part
    assert {"Makefile", "README_ch.md", "CHANGELOG.md", "docs/reference/configuration.md", "LICENSE"} <= in_sdist


def test_metadata(built):
    text = metadata(built.wheel)
    assert "\nLicense-Expression: Apache-2.0\n" in text
    assert "License ::" not in text
    assert not [line for line in built.output.splitlines() if "license" in line.lower() and "warn" in line.lower()]
    assert "Deprecated" not in built.output
    readme = text.split("\n\n", 1)[1]
    assert [link for link in re.findall(r"\]\(([^)]+)\)", readme) if "://" not in link] == []


class Installed(NamedTuple):
    """The wheel in an environment of its own, and an empty folder to work in."""

    bin: Path
    folder: Path

    def run(self, *arguments: object, code: int = 0, **environment: str) -> subprocess.CompletedProcess:
        clean = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "VIRTUAL_ENV")}
        done = subprocess.run(
            [str(self.bin / "ppcls-ext"), *map(str, arguments)],
            cwd=self.folder,
            env={**clean, "OMP_NUM_THREADS": "1", **environment},
            capture_output=True,
            text=True,
        )
        assert done.returncode == code, f"{arguments}: {done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        return done


def install(wheel: Path, root: Path, packages: Path) -> Installed:
    """A fresh environment with the wheel; other packages come from the folder `packages`, nothing from the network."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(root / "venv")], check=True)
    python = root / "venv" / "bin" / "python"
    command = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*command, str(wheel)], check=True)
    (target,) = (root / "venv" / "lib").glob("python*/site-packages")
    # a .pth in a folder that a .pth names is not read: an editable installation of this project stays unseen
    (target / "others.pth").write_text(f"{packages}\n")
    (root / "empty").mkdir()
    return Installed(root / "venv" / "bin", root / "empty")


@pytest.fixture(scope="module")
def everything(built, tmp_path_factory) -> Installed:
    """Installed beside all packages that these tests run with."""
    packages = Path(importlib.util.find_spec("paddle").origin).parents[1]
    return install(built.wheel, tmp_path_factory.mktemp("all"), packages)


@pytest.fixture(scope="module")
def light(built, tmp_path_factory) -> Installed:
    """Installed beside no more than [predict] brings."""
    root = tmp_path_factory.mktemp("light")
    packages = root / "packages"
    packages.mkdir()
    for name in LIGHT:
        found = distribution(name)
        for part in {file.parts[0] for file in found.files if not file.parts[0].startswith("..")} - {"__pycache__"}:
            (packages / part).symlink_to(found.locate_file(part))
    return install(built.wheel, root, packages)


@pytest.fixture(scope="module")
def exported(everything) -> Path:
    """Sample pictures, trained on for an epoch and exported."""
    everything.run("make-sample-dataset", "--limit", 80, "--size", 32)
    quick = [
        "-c",
        "digits/MobileOne_S0",
        "-o",
        "Global.epochs=1",
        "Global.image_shape=[3,32,32]",
        "Global.eval_interval=1",
    ]
    places = ("DataLoader.Eval.dataset.transform_ops", "Infer.transforms")
    quick += ["Arch.name=FasterNet_T0", "DataLoader.Train.dataset.transform_ops.1.RandCropImage.size=32"]
    quick += [f"{place}.1.ResizeImage.resize_short=32" for place in places]
    quick += [f"{place}.2.CropImage.size=32" for place in places]
    quick += [f"DataLoader.{loader}.loader.num_workers=0" for loader in ("Train", "Eval")]
    quick += ["DataLoader.Train.sampler.batch_size=16"]
    everything.run("train", *quick)
    everything.run("eval", *quick, "Global.pretrained_model=output/FasterNet_T0/best_model")
    everything.run(
        "export-onnx", *quick, "Global.pretrained_model=output/FasterNet_T0/best_model", "--output", "model.onnx"
    )
    return everything.folder / "model.onnx"


def test_it_is_the_wheel_that_runs(everything):
    code = "import ppcls_ext; print(ppcls_ext.__file__)"
    python = [str(everything.bin / "python"), "-c", code]
    done = subprocess.run(python, cwd=everything.folder, capture_output=True, text=True, check=True)
    assert str(everything.bin.parent) in done.stdout


def test_from_data_to_predictions_without_a_checkout(everything, exported, light):
    pictures = sorted((everything.folder / "dataset" / "digits" / "images").iterdir())[:3]
    found = json.loads(everything.run("predict", exported, *pictures, "--json", "--topk", 2).stdout)
    assert [len(result["class_ids"]) for result in found] == [2, 2, 2]
    assert json.loads(light.run("predict", exported, *pictures, "--json", "--topk", 2).stdout) == found


def test_doctor(everything):
    assert everything.run("doctor").stdout.splitlines()[-1] == "no problems"


def test_light(light, built):
    stated = re.search(r"^Version: (.+)$", metadata(built.wheel), re.MULTILINE)[1]
    assert light.run("--version").stdout == f"ppcls-ext {stated}\n"
    assert "RepVGG_B1g4" in light.run("models").stdout
    assert light.run("models", "--config", "ImageNet/RepVGG_A0").stdout.startswith("# RepVGG_A0 on ImageNet")
    doctor = light.run("doctor", code=1).stdout
    for extra in ("paddle", "onnx", "train"):
        assert f'pip install "ppcls-ext[{extra}]"' in doctor
    error = light.run("train", "-c", "MobileOne_S0", code=1).stderr
    assert error.startswith("error: no PaddleClas: ")
    assert "[train]" in error
    error = light.run("convert-weights", "a.npz", "b.npz", "--arch", "MobileOne_S0", code=1).stderr
    assert error.startswith('error: the package paddle is missing: pip install "ppcls-ext[paddle]"')
    assert len(error.splitlines()) == 1
