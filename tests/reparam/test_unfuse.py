"""`unfuse`: the function is kept, exactly in eval mode and nearly in train mode, and every branch learns."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from ppcls_ext import build, reparameterize
from ppcls_ext.errors import PpclsExtError
from ppcls_ext.reparam.unfuse import unfuse
from tests.helpers import relative

SMALL = ["MobileOne_S0", pytest.param("RepVGG_A0", marks=pytest.mark.slow), "FasterNet_T0"]


def pictures(count, seed):
    """Smooth random pictures: neighbouring pixels are alike, as in photographs."""
    rng = np.random.default_rng(seed)
    coarse = paddle.to_tensor(rng.normal(0, 1, (count, 3, 12, 12)).astype("float32"))
    return paddle.nn.functional.interpolate(coarse, [96, 96], mode="bilinear")


@pytest.fixture(scope="module", params=SMALL)
def fused(request):
    paddle.seed(0)
    model = build(request.param, class_num=5)
    # statistics of real activations: in a random net, batch statistics are nothing like the stored ones
    model.train()
    with paddle.no_grad():
        for seed in range(40):
            model(pictures(16, seed))
    return reparameterize(model)


def test_function_is_kept_and_branches_learn(fused):
    calibration = [pictures(16, 100 + seed) for seed in range(8)]
    model = unfuse(fused, calibration)
    x = pictures(16, 999)
    expected = fused(x)
    model.eval()
    assert relative(model(x), expected) < 1e-4
    assert relative(reparameterize(model)(x), expected) < 1e-4
    model.train()
    everything = paddle.concat(calibration)
    train_error = float((model(everything) - fused(everything)).abs().mean() / fused(everything).std())
    assert train_error < 0.15  # batch statistics instead of the calibration's

    before = {name: tensor.numpy().copy() for name, tensor in model.named_parameters() if tensor.trainable}
    optimizer = paddle.optimizer.Momentum(0.01, parameters=model.parameters())
    for step in range(3):
        labels = paddle.to_tensor(np.arange(16) % 5)
        paddle.nn.functional.cross_entropy(model(pictures(16, step)), labels).backward()
        optimizer.step()
        optimizer.clear_grad()
    for name, tensor in model.named_parameters():
        if tensor.trainable:
            assert (tensor.numpy() != before[name]).any(), name


def test_other_branches_start_small(fused):
    model = unfuse(fused, [pictures(8, 0)])
    for layer in model.sublayers():
        if not hasattr(layer, "branches") or len(layer.branches()) == 1:
            continue
        total, _ = layer.equivalent_kernel()
        first = layer.branches()[0].kernel.astype("float64")
        assert float((total - first).norm()) < 0.1 * float(total.norm())


def test_refuses(fused):
    with pytest.raises(PpclsExtError, match="no calibration images"):
        unfuse(fused, [])
    with pytest.raises(PpclsExtError, match="needs a fused model"):
        unfuse(build("RepVGG_A0"), [pictures(2, 0)])
