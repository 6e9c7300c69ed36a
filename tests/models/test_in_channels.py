"""Models of images of other channels than RGB: built, loaded from weights of three, fused, unfused, exported."""

from __future__ import annotations

import logging

import numpy as np
import paddle
import pytest

from ppcls_ext import build, load_weights, reparameterize, unfuse
from ppcls_ext.errors import PpclsExtError
from ppcls_ext.models.factories import load_model
from ppcls_ext.weights.loading import save_weights, stem_kernels
from tests.helpers import randomise_norms, relative
from tests.models.test_models import SMALL

STEMS = {
    "MobileOne_S0": ["stage0.rbr_conv.0.conv.weight", "stage0.rbr_scale.conv.weight"],
    "RepVGG_A0": ["stage0.rbr_dense.conv.weight", "stage0.rbr_1x1.conv.weight"],
    "RepVGG_D2se": ["stage0.rbr_dense.conv.weight", "stage0.rbr_1x1.conv.weight"],
    "FasterNet_T0": ["patch_embed.proj.weight"],
}


def arrays(model):
    return {name: tensor.numpy() for name, tensor in model.state_dict().items()}


def images(channels, seed=0, size=32):
    shape = (2, channels, size, size)
    return paddle.to_tensor(np.random.default_rng(seed).standard_normal(shape).astype(np.float32))


@pytest.mark.parametrize("name", STEMS)
def test_the_stem_reads_the_image(name):
    model = build(name, class_num=2, in_channels=2)
    assert sorted(stem_kernels(model)) == sorted(STEMS[name])
    assert all(model.state_dict()[kernel].shape[1] == 2 for kernel in STEMS[name])
    assert model.in_channels == 2
    assert build("FasterNet_T0").in_channels == 3


@pytest.mark.parametrize(("name", "channels"), zip(SMALL, (1, 5, 4)))
def test_every_form_gives_the_same(name, channels):
    model = build(name, class_num=3, in_channels=channels)
    randomise_norms(model, seed=0)
    x = images(channels)
    fused = reparameterize(model)
    model.eval()
    assert relative(fused(x).numpy(), model(x).numpy()) < 1e-4
    again = unfuse(fused, [images(channels, seed) for seed in range(2)])
    assert again.in_channels == channels
    again.eval()
    assert relative(again(x).numpy(), fused(x).numpy()) < 1e-4
    with pytest.raises(PpclsExtError, match=rf"expected \(N, {channels}, H, W\)"):
        unfuse(fused, images(3))
    maps = build(name, in_channels=channels, features_only=True)(x)
    assert [tuple(m.shape[:2]) for m in maps] == [(2, c) for c in build(name, features_only=True).channels]


@pytest.mark.parametrize(("name", "fused"), zip(SMALL, (True, False, False)))
def test_weights_of_three_channels_are_adapted(name, fused, tmp_path, caplog):
    """A grey image to one channel is what its three equal channels are to three; more channels keep the mean."""
    model = build(name, class_num=3)
    randomise_norms(model, seed=0)
    model = reparameterize(model) if fused else model
    model.eval()
    theirs = arrays(model)
    save_weights(model, tmp_path / "weights.npz")
    grey = images(1)
    with caplog.at_level(logging.INFO, "ppcls_ext"):
        one = build(name, class_num=3, fused=fused, in_channels=1, pretrained=tmp_path / "weights.npz")
    assert "the first convolution, for 3 channels, was adapted to 1: summed over the channels" in caplog.text
    assert caplog.text.count("\n") == 1
    one.eval()
    expected = model(paddle.concat([grey] * 3, axis=1)).numpy()
    assert relative(one(grey).numpy(), expected) < 1e-4
    five = build(name, class_num=3, fused=fused, in_channels=5)
    report = load_weights(five, theirs, allow_other_channels=True)
    assert "adapted to 5: repeated in turn, times 3 / 5" in str(report)
    kernels = stem_kernels(five)
    assert kernels
    for kernel, array in arrays(five).items():
        if kernel in kernels:
            expected = theirs[kernel][:, [0, 1, 2, 0, 1]] * (3 / 5)
            assert np.allclose(array, expected, rtol=1e-6)
        else:
            assert np.array_equal(array, theirs[kernel])
    assert load_weights(build(name, class_num=3, fused=fused), theirs, allow_other_channels=True).adapted == ""


def test_everything_else_is_strict(tmp_path):
    name = "FasterNet_T0"
    four = build(name, class_num=2, in_channels=4)
    before = arrays(four)
    three = arrays(build(name, class_num=2))
    for source, target, allow, said in (
        (three, four, False, f"for images of 3 channels, and {name} takes 4"),
        (before, build(name, class_num=2), True, f"for images of 4 channels, and {name} takes 3"),
        (before, build(name, class_num=2, in_channels=1), True, f"for images of 4 channels, and {name} takes 1"),
    ):
        with pytest.raises(PpclsExtError, match=said) as caught:
            load_weights(target, source, allow_other_channels=allow)
        assert "\n" not in str(caught.value)
    assert all(np.array_equal(array, before[key]) for key, array in arrays(four).items())
    save_weights(four, tmp_path / "four.pdparams")
    loaded, report = load_model(tmp_path / "four.pdparams", name)
    assert (loaded.in_channels, loaded.class_num, report.adapted) == (4, 2, "")
    other, _ = load_model(tmp_path / "four.pdparams", name, class_num=7)
    assert (other.in_channels, other.class_num) == (4, 7)


@pytest.mark.parametrize("wrong", [0, -1, 1.0, "4", True, None])
def test_a_wrong_number_is_one_line(wrong):
    with pytest.raises(PpclsExtError, match=r"in_channels of FasterNet_T0 is .*: expected a whole number from 1"):
        build("FasterNet_T0", in_channels=wrong)


def test_fork_feat_keeps_its_norms():
    model = build("FasterNet_T0", in_channels=2, fork_feat=True)
    report = load_weights(model, arrays(build("FasterNet_T0", class_num=3)), allow_other_channels=True)
    assert all(name.startswith("norm") for name in report.fresh)
    assert report.adapted
