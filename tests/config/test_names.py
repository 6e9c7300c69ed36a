"""What a configuration may name: classes of PaddleClas, Paddle and plug-ins, and models; nothing that these import."""

from __future__ import annotations

import collections
import functools
import pathlib
import re
import subprocess
import types
import urllib.request

import numpy as np
import paddle
import pytest
import tqdm
import yaml
from PIL import Image

from ppcls_ext.config.checks import require_fields
from ppcls_ext.config.host_classes import resolve
from ppcls_ext.config.load import load_config
from ppcls_ext.errors import PpclsExtError
from ppcls_ext.hosts.paddleclas.safe_eval import find, is_offered, offered
from ppcls_ext.models.table import MODELS

LIBRARIES = [subprocess.Popen, pathlib.Path, collections.OrderedDict, functools.partial, urllib.request.Request]
TOOLS = [np.memmap, Image.Image, tqdm.tqdm, yaml.UnsafeLoader, int, dict]


@pytest.mark.parametrize("value", [*LIBRARIES, *TOOLS], ids=lambda value: f"{value.__module__}.{value.__name__}")
def test_classes_that_a_module_imports_for_its_own_use(value):
    assert not is_offered(value)


@pytest.fixture
def host() -> types.ModuleType:
    """A module of PaddleClas with a class, a model, a helper, and a plug-in's module in it."""
    plugin = made("plugin", Loss=type("Loss", (), {"__module__": "plugin"}))
    model = types.FunctionType(compile("None", "", "eval"), {"__name__": "ppcls.arch.backbone.x"})
    helper = types.FunctionType(compile("None", "", "eval"), {"__name__": "ppcls.loss"})
    own = type("CELoss", (), {"__module__": "ppcls.loss", "Inner": type("Inner", (), {"__module__": "ppcls.loss"})})
    return made("ppcls.loss", CELoss=own, model=model, helper=helper, plugin=plugin, Loss=plugin.Loss, nn=paddle.nn)


def made(name: str, **names: object) -> types.ModuleType:
    module = types.ModuleType(name)
    vars(module).update(names)
    return module


def test_what_is_offered(host):
    assert offered(host) == ["CELoss", "model", "Loss"]
    assert find(host, "Loss") is host.Loss
    assert find(host, "nn.LayerNorm") is paddle.nn.LayerNorm


@pytest.mark.parametrize("name", ["helper", "plugin", "plugin.Loss", "CELoss.Inner", "nn.functional.relu", "nn", ""])
def test_what_is_not(host, name):
    assert find(host, name) is None


@pytest.mark.usefixtures("registered")
def test_an_unknown_architecture_lists_ours():
    config = load_config("FasterNet_T0", ["Arch.name=FasterNet_T9"])
    with pytest.raises(PpclsExtError, match=r"Arch\.name is FasterNet_T9, which PaddleClas does not have") as error:
        resolve(config, ("Global", "Arch"))
    assert re.search(r"this project's are FasterNet_T\d, ", str(error.value))
    assert all(name in str(error.value) for name in MODELS)
    del config["Arch"]["name"]
    with pytest.raises(PpclsExtError, match=r"no Arch\.name, which train needs: .*one of MobileOne_S0, "):
        require_fields(config, "train")
