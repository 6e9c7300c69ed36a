"""What a configuration may name: classes of PaddleClas, Paddle and plug-ins, and models; nothing that these import."""

from __future__ import annotations

import collections
import functools
import pathlib
import subprocess
import types
import urllib.request

import numpy as np
import paddle
import pytest
import tqdm
import yaml
from PIL import Image

from ppcls_ext.hosts.paddleclas.safe_eval import find, is_offered, offered

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
