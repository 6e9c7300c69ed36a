"""Weights that PaddleClas loads itself, whatever the architecture: nothing in them is run."""

from __future__ import annotations

import inspect
import os
import pickle
import subprocess
import sys
from pathlib import Path

import paddle
import pytest
import yaml

from ppcls_ext.errors import PpclsExtError
from ppcls_ext.hosts.paddleclas.safe_pickle import read_without_running
from tests.helpers import build_engine
from tests.tiny_dataset import ROOT

pytestmark = pytest.mark.usefixtures("registered")

RECOGNITION = {
    "name": "RecModel",
    "Backbone": {"name": "FasterNet_T0"},
    "BackboneStopLayer": {"name": "flatten"},
    "Neck": {"name": "FC", "embedding_size": 1280, "class_num": 8},
    "Head": {"name": "ArcMargin", "embedding_size": 8, "class_num": 2, "margin": 0.15, "scale": 30},
}
TEACHER = {"name": "ResNet18", "class_num": 2, "pretrained": "w"}
STUDENT = {"name": "FasterNet_T0", "class_num": 2}
#: How weights reach PaddleClas: Arch, and Global.pretrained_model.
WAYS = {
    "foreign model, Global": ({"name": "ResNet18", "class_num": 2}, "w"),
    "foreign model, Arch": (TEACHER, None),
    "recognition": (RECOGNITION, "w"),
    "recognition, foreign backbone": ({**RECOGNITION, "Backbone": {"name": "ResNet18", "pretrained": "w"}}, None),
    "recognition, our backbone": ({**RECOGNITION, "Backbone": {"name": "FasterNet_T0", "pretrained": "w"}}, None),
    "distillation": ({"name": "DistillationModel", "models": [{"Teacher": TEACHER}, {"Student": STUDENT}]}, None),
    "distillation, list": (
        {"name": "DistillationModel", "models": [{"Student": STUDENT}], "pretrained_list": ["w"]},
        None,
    ),
    "distillation, Global": ({"name": "DistillationModel", "models": [{"Student": STUDENT}]}, "w"),
}


class Malicious:
    def __reduce__(self):
        return os.mkdir, ("executed",)


@pytest.fixture
def malicious(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("w.pdparams").write_bytes(pickle.dumps({"weight": Malicious()}, protocol=2))
    read_without_running()


@pytest.mark.parametrize(
    ("way", "mode"),
    [(way, "eval") for way in WAYS]
    + [(way, mode) for way in ("recognition", "foreign model, Arch") for mode in ("train", "infer", "export")],
)
def test_no_weights_are_executed(malicious, config, way, mode):
    from ppcls.utils.save_load import load_dygraph_pretrain

    config["Arch"], config["Global"]["pretrained_model"] = WAYS[way]
    # PaddleClas develop calls its loader with a wrong keyword where there is a list
    broken = way == "distillation, list" and "path" not in inspect.signature(load_dygraph_pretrain).parameters
    said = "unexpected keyword argument" if broken else r"w\.pdparams: .*mkdir.*could run code"
    with pytest.raises((TypeError, PpclsExtError) if broken else PpclsExtError, match=said):
        build_engine(config, mode)
    assert not Path("executed").exists()


@pytest.mark.parametrize("suffix", [".pdparams", ".pdopt", ".pdstates", ".ema.pdparams", ".pdema"])
def test_checkpoints_that_paddleclas_resumes_itself(malicious, suffix):
    """As a script with another engine than ours does."""
    from ppcls.utils.save_load import init_model

    net, ema = paddle.nn.Linear(1, 1), paddle.nn.Linear(1, 1)
    optimizer = paddle.optimizer.SGD(parameters=net.parameters())
    for content, ending in ((net.state_dict(), ".pdparams"), ({}, ".pdopt"), ({"metric": 1.0}, ".pdstates")):
        paddle.save(content, f"x{ending}")
    arguments = [{"checkpoints": "x"}, net, [optimizer], net]
    if "ema" in suffix:
        code = inspect.getsource(init_model)
        if suffix not in code:
            pytest.skip("this PaddleClas has no such file")
        paddle.save(net.state_dict(), "x.pdema" if suffix != ".pdema" else "x.ema.pdparams")
        arguments.append(ema)
    Path("w.pdparams").replace(f"x{suffix}")
    with pytest.raises(PpclsExtError, match=r"mkdir.*could run code"):
        init_model(*arguments)
    assert not Path("executed").exists()


def test_the_tools_and_foreign_scripts_are_guarded(malicious, config, run_tool, tmp_path):
    config["Arch"], config["Global"]["pretrained_model"] = WAYS["foreign model, Global"]
    Path("tiny.yml").write_text(yaml.safe_dump(config))
    Path("load.py").write_text("import paddle\npaddle.load('w.pdparams')\n")
    for name, arguments in (("eval", ["-c", "tiny.yml"]), ("-m", ["load.py"])):
        result = run_tool(name, *arguments, cwd=tmp_path)
        assert result.returncode == 1
        assert "w.pdparams: its pickle asks for the global" in result.stderr.splitlines()[-1]
        assert not Path("executed").exists()


#: What a script may do that reads its configuration with PaddleClas's own reader.
OWN_READER = """
from ppcls.utils.config import get_config
code = "__import__('os').mkdir('executed')"
config = get_config("tiny.yml", overrides=["Global.epochs=" + code, "Global.seed=[1, 2.5]", "Loss.Train.0=True"])
assert (config["Global"]["epochs"], config["Global"]["seed"], config["Loss"]["Train"]) == (code, [1, 2.5], [True])
"""
#: A script in a checkout of PaddleSeg, which looks like this from outside.
DOWNSTREAM = """
import sys
import types
from ppcls_ext.commands import host_script
from tests.helpers import build_engine
registrar = sys.modules["registrar"] = types.ModuleType("registrar")
registrar.register = lambda place: __import__("paddle")
host_script.REGISTRARS["paddleseg"] = "registrar"
host_script.main(["PaddleSeg/tools/load.py"])
"""


def test_scripts_with_their_own_reader(malicious, config, run_tool, tmp_path):
    Path("tiny.yml").write_text(yaml.safe_dump(config))
    Path("read.py").write_text(OWN_READER)
    result = run_tool("-m", "read.py", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert not Path("executed").exists()


def test_scripts_of_other_checkouts(malicious, tmp_path):
    for folder in ("paddleseg", "tools"):
        Path("PaddleSeg", folder).mkdir(parents=True)
    Path("PaddleSeg", "paddleseg", "__init__.py").touch()
    Path("PaddleSeg", "tools", "load.py").write_text("import paddle\npaddle.load('w.pdparams')\n")
    result = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", DOWNSTREAM],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "w.pdparams: its pickle asks for the global" in result.stderr
    assert not Path("executed").exists()


def test_weights_of_foreign_models_are_loaded_as_before(malicious, config):
    from ppcls.arch import ResNet18

    expected = ResNet18(class_num=2).state_dict()
    paddle.save(expected, "w.pdparams")
    config["Arch"], config["Global"]["pretrained_model"] = WAYS["foreign model, Global"]
    loaded = build_engine(config, "eval").model.state_dict()
    assert all((loaded[name].numpy() == tensor.numpy()).all() for name, tensor in expected.items())
