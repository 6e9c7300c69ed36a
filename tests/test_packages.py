"""A missing package is named with the extra that brings it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from ppcls_ext.errors import PpclsExtError
from ppcls_ext.packages import EXTRAS, import_extra, missing, require

ROOT = Path(__file__).resolve().parents[1]
#: Packages that are installed under another name than they are imported by.
DISTRIBUTIONS = {
    "cv2": "opencv-python-headless",
    "sklearn": "scikit-learn",
    "faiss": "faiss-cpu",
    "paddle": "paddlepaddle",
    "ai_edge_litert": "ai-edge-litert",
}


@pytest.fixture(scope="module")
def requirements(tmp_path_factory) -> dict[str, set[str]]:
    """Extra → names of its distributions, "" for those that everybody gets."""
    folder = tmp_path_factory.mktemp("metadata")
    command = [sys.executable, "setup.py", "-q", "egg_info", "--egg-base", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    found: dict[str, set[str]] = {"": set()}
    extra = ""
    for line in (folder / "ppcls_ext.egg-info" / "requires.txt").read_text().splitlines():
        if line.startswith("["):
            extra = line.strip("[]").split(":")[0]
            found.setdefault(extra, set())
        elif line:
            found[extra].add(re.split(r"[^\w.-]", line)[0])
    return found


@pytest.mark.parametrize("package", EXTRAS)
def test_the_extra_named_brings_the_package(package, requirements):
    assert DISTRIBUTIONS.get(package, package) in requirements[EXTRAS[package]]


def test_installation_is_light(requirements):
    assert requirements[""] == {"numpy", "pyyaml", "pillow", "safetensors"}
    assert requirements["video"] == {"opencv-python-headless"}, "what predict --video names"
    assert requirements["all"] == set().union(
        *(requirements[name] for name in ("predict", "train", "paddle", "onnx", "report"))
    )
    assert [name for name, brought in requirements.items() if "paddlepaddle" in brought] == [
        "all",
        "dev",
        "docs",
        "paddle",
    ]


def test_messages(monkeypatch):
    assert missing("scipy") == 'the package scipy is missing: pip install "ppcls-ext[train]"'
    assert "paddlepaddle-gpu" in missing("paddle")
    assert missing("something") == "the package something is missing: pip install something"
    monkeypatch.setattr("sys.version_info", (3, 12, 1))
    assert missing("paddle2onnx") == 'the package paddle2onnx is missing: pip install "ppcls-ext[onnx]"'
    monkeypatch.setattr("sys.version_info", (3, 13, 0))
    assert "no wheel for Python 3.13: export to ONNX with Python 3.9 to 3.12 (make install" in missing("paddle2onnx")
    monkeypatch.undo()
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(PpclsExtError, match=r'onnxruntime is missing: pip install "ppcls-ext\[predict\]"'):
        import_extra("onnxruntime")


def test_all_missing_packages_are_named_at_once(monkeypatch):
    for name in ("onnx", "onnxruntime", "something"):
        monkeypatch.setitem(sys.modules, name, None)
    text = (
        r'^the packages onnx, onnxruntime and something are missing: pip install "ppcls-ext\[onnx,pre.*\]" something$'
    )
    with pytest.raises(PpclsExtError, match=text):
        require("numpy", "onnx", "onnxruntime", "something")
    with pytest.raises(PpclsExtError, match=r"^the package onnx is missing"):
        require("numpy", "onnx")


def test_a_broken_package_is_to_be_installed_again(monkeypatch, tmp_path):
    (tmp_path / "onnxslim.py").write_text("raise RuntimeError('no such\\nsymbol')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "onnxslim", raising=False)
    with pytest.raises(
        PpclsExtError, match=r'does not load \(no such symbol\): reinstall it, pip install "ppcls-ext\[onn'
    ):
        import_extra("onnxslim")


def test_a_command_names_it_too(tmp_path):
    """Where PaddleClas or Paddle import the package, not we."""
    code = "import sys; sys.modules['paddle'] = None\nfrom ppcls_ext.commands.main import main; sys.exit(main())"
    command = [sys.executable, "-c", code, "convert-weights", "a.npz", "b.npz", "--arch", "MobileOne_S0"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith('error: the package paddle is missing: pip install "ppcls-ext[paddle]"')
