"""`ppcls-ext models`: the table is true, quick to come, and says the same in every form."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import ppcls_ext
from benchmarks.model_figures import count
from ppcls_ext.commands.main import main
from ppcls_ext.config.shipped import SHIPPED, shipped
from ppcls_ext.models.figures import FIGURES
from ppcls_ext.models.table import MODELS

ROOT = Path(__file__).resolve().parents[2]


SMALLEST = ("MobileOne_S0", "RepVGG_A0", "FasterNet_T0")


@pytest.mark.parametrize("name", SMALLEST)
def test_figures_are_what_the_models_are(name):
    assert FIGURES[name] == count(name)


@pytest.mark.parametrize("name", [name for name in MODELS if name not in SMALLEST])
@pytest.mark.slow
def test_parameters_of_the_others(name):
    model = ppcls_ext.build(name)
    assert FIGURES[name].unfused == sum(tensor.size for tensor in model.parameters() if tensor.trainable)


def test_every_model_has_figures():
    assert list(FIGURES) == list(MODELS)


def test_the_page_of_models_has_the_same_figures():
    page = (ROOT / "docs" / "reference" / "models.md").read_text(encoding="utf-8")
    for name, figures in FIGURES.items():
        row = f"| {name} | {figures.unfused / 1e6:.2f} | {figures.fused / 1e6:.2f} | {figures.macs / 1e9:.2f} |"
        assert row in page


def test_forms_agree(capsys):
    assert main(["models"]) == 0
    plain = capsys.readouterr().out.split("\n\n")[0].splitlines()
    assert main(["models", "--markdown"]) == 0
    marked = capsys.readouterr().out.splitlines()
    assert [line.split() for line in plain[1:]] == [line.replace("|", " ").split() for line in marked[2:]]
    assert main(["models", "--json"]) == 0
    described = json.loads(capsys.readouterr().out)
    assert [model["name"] for model in described] == list(MODELS)
    for model, line in zip(described, plain[1:]):
        assert f"{model['parameters_fused'] / 1e6:.2f}" == line.split()[2]
        assert model["weights"] == line.split()[-1]
        assert (model["weights_address"] is None) == (model["weights"] == "none")


def test_some_models(capsys):
    assert main(["models", "mobileone", "_t0"]) == 0
    names = re.findall(r"^(?:MobileOne|FasterNet|RepVGG)_\w+", capsys.readouterr().out.split("\n\n")[0], re.MULTILINE)
    assert names == [*(f"MobileOne_S{number}" for number in range(5)), "FasterNet_T0"]
    assert main(["models", "ResNet"]) == 1
    assert capsys.readouterr().err == "error: no model is called ResNet: ppcls-ext models lists all\n"


def test_configuration(capsys):
    assert main(["models", "--config", "ImageNet/RepVGG_A0"]) == 0
    assert capsys.readouterr().out == shipped("ImageNet/RepVGG_A0")
    assert "ImageNet/RepVGG_A0" in SHIPPED
    assert main(["models", "--config", "RepVGG_A9"]) == 1
    assert "error: no shipped configuration is called RepVGG_A9: there are RepVGG_A" in capsys.readouterr().err


def test_loads_nothing_slow():
    code = (
        "import sys; from ppcls_ext.commands.main import main; main(['models']); "
        "print({'paddle', 'ppcls', 'numpy', 'yaml', 'PIL'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "set()"
