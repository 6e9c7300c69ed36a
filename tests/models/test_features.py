"""The four maps of every registered name, models without a head, and weights files that have one."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import paddle
import pytest

from ppcls_ext import build, list_models, load_weights, reparameterize
from ppcls_ext.errors import PpclsExtError
from ppcls_ext.weights.naming import to_torch_names
from tests.helpers import ROOT, randomise_norms, relative
from tests.models.test_models import EVERY, SMALL

#: Channels of the four maps: arXiv 2206.04040, table 2; arXiv 2101.03697, tables 2 and 3; arXiv 2303.03667, table 7.
CHANNELS = {
    "MobileOne_S0": (48, 128, 256, 1024),
    "MobileOne_S1": (96, 192, 512, 1280),
    "MobileOne_S2": (96, 256, 640, 2048),
    "MobileOne_S3": (128, 320, 768, 2048),
    "MobileOne_S4": (192, 448, 896, 2048),
    "RepVGG_A0": (48, 96, 192, 1280),
    "RepVGG_A1": (64, 128, 256, 1280),
    "RepVGG_A2": (96, 192, 384, 1408),
    "RepVGG_B0": (64, 128, 256, 1280),
    "RepVGG_B1": (128, 256, 512, 2048),
    "RepVGG_B2": (160, 320, 640, 2560),
    "RepVGG_B3": (192, 384, 768, 2560),
    "RepVGG_D2se": (160, 320, 640, 2560),
    "FasterNet_T0": (40, 80, 160, 320),
    "FasterNet_T1": (64, 128, 256, 512),
    "FasterNet_T2": (96, 192, 384, 768),
    "FasterNet_S": (128, 256, 512, 1024),
    "FasterNet_M": (144, 288, 576, 1152),
    "FasterNet_L": (192, 384, 768, 1536),
}


def channels_of(name):
    return CHANNELS[name.partition("g")[0]]  # groups change no width


@pytest.mark.parametrize("name", EVERY)
def test_features_of_every_model(name):
    paddle.seed(0)
    whole = build(name, class_num=3)
    randomise_norms(whole, seed=1)
    whole.eval()
    features_only = build(name, features_only=True)
    assert features_only.channels == features_only.out_channels == channels_of(name)
    assert features_only.strides == (4, 8, 16, 32)
    assert (features_only.class_num, whole.class_num) == (0, 3)
    assert whole.num_features == (1280 if name.startswith("FasterNet") else whole.channels[-1])

    # weights of the whole classifier, in the official PyTorch naming
    state = to_torch_names({key: value.numpy() for key, value in whole.state_dict().items()})
    report = load_weights(features_only, state)
    assert set(report.loaded) == set(features_only.state_dict())
    assert {key.split(".")[0] for key in report.unused} <= {"linear", "head", "avgpool_pre_head"}
    assert report.unused
    assert not report.fresh
    features_only.eval()

    x = paddle.randn([2, 3, 64, 32])
    with paddle.no_grad():
        maps = features_only(x)
        assert [tuple(map_.shape) for map_ in maps] == [
            (2, channels, 64 // stride, 32 // stride) for channels, stride in zip(whole.channels, whole.strides)
        ]
        for got, expected in zip(maps, whole.features(x)):
            assert relative(got, expected) == 0
        assert relative(whole.forward_features(x), maps[-1]) == 0
        assert relative(whole(x), whole.forward_head(maps[-1])) < 1e-6
        for got, expected in zip(reparameterize(features_only)(x), maps):
            assert relative(got, expected) < 1e-5


@pytest.mark.parametrize("name", SMALL)
def test_no_classifier(name):
    paddle.seed(0)
    whole = build(name, class_num=3)
    randomise_norms(whole, seed=1)
    headless = build(name, class_num=0)
    report = load_weights(headless, {key: value.numpy() for key, value in whole.state_dict().items()})
    assert {key.split(".")[0] for key in report.unused} == {whole.classifier}
    whole.eval()
    headless.eval()
    x = paddle.randn([2, 3, 64, 64])
    pooled = headless(x)
    assert pooled.shape == [2, headless.num_features]
    assert relative(whole._sub_layers[whole.classifier](pooled), whole(x)) < 1e-6


@pytest.mark.parametrize("name", SMALL)
def test_stem(name):
    model = build(name, features_only=True)
    model.eval()
    x = paddle.randn([1, 3, 64, 64])
    if not model.stem_channels:
        with pytest.raises(PpclsExtError, match="no map at stride 2"):
            model.features(x, stem=True)
        return
    maps = model.features(x, stem=True)
    assert len(maps) == 5
    assert tuple(maps[0].shape) == (1, model.stem_channels, 32, 32)


@pytest.mark.parametrize("name", SMALL)
def test_pretrained_and_stopped(name, tmp_path):
    whole = build(name, class_num=3)
    paddle.save(whole.state_dict(), str(tmp_path / "whole.pdparams"))
    stop = whole.stages_pattern[2]
    stopped = build(name, pretrained=str(tmp_path / "whole.pdparams"), stop_after=stop)
    state = whole.state_dict()
    assert 0 < len(stopped.state_dict()) < len(state)
    for key, value in stopped.state_dict().items():
        np.testing.assert_array_equal(value.numpy(), state[key].numpy())
    # what lies in front of the stop is required as ever
    partial = {key: value.numpy() for key, value in state.items() if not key.startswith(("stage1.0", "patch_embed"))}
    with pytest.raises(PpclsExtError, match="missing"):
        load_weights(stopped, partial)


@pytest.mark.parametrize("name", SMALL)
def test_features_only_refuses_another_net(name):
    other = build(next(model for model in list_models() if model.split("_")[0] != name.split("_")[0]))
    with pytest.raises(PpclsExtError, match="does not fit"):
        load_weights(build(name, features_only=True), {key: value.numpy() for key, value in other.state_dict().items()})


WITHOUT_PADDLECLAS = """
import importlib.util, sys

class Nothing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("ppcls", "paddleclas"):
            raise ModuleNotFoundError(name)

find_spec = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name in ("ppcls", "paddleclas") else find_spec(name, *rest)
sys.meta_path.insert(0, Nothing())

import paddle
import pytest
from tests.models import test_models
for name in test_models.SMALL:
    test_models.test_stage_maps(name)
    test_models.test_some_stages(name)
    test_models.test_stop_and_freeze(name)
    test_models.test_deep_copies_are_independent(name)

from ppcls_ext import build, register
from ppcls_ext.errors import PpclsExtError
from ppcls_ext.models.standalone import StandaloneLayer
assert isinstance(build("RepVGG_A0"), StandaloneLayer)
with pytest.raises(PpclsExtError, match="PaddleClas"):
    register()
assert not any(name.split(".")[0] in ("ppcls", "paddleclas") for name in sys.modules)
print("done")
"""


@pytest.mark.slow
def test_without_paddleclas(monkeypatch):
    monkeypatch.delenv("PADDLECLAS_HOME", raising=False)
    done = subprocess.run([sys.executable, "-c", WITHOUT_PADDLECLAS], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip().endswith("done"), done.stderr[-2000:]
