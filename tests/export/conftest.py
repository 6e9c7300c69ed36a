"""A small network of each family as an fp32 graph, and pictures for it."""

from __future__ import annotations

import numpy as np
import onnx
import paddle
import pytest
from paddle import nn

from ppcls_ext.data.image_rule import Preprocessing
from ppcls_ext.export.pipeline import export_onnx
from ppcls_ext.models import fasternet, mobileone, repvgg
from ppcls_ext.predict.metadata import Metadata
from tests.helpers import randomise_norms

PIXELS, CLASSES = 32, 5
NARROW = (0.25, 0.25, 0.25, 0.25)
NETS = {
    "MobileOne": lambda: mobileone.MobileOne(mobileone.Variant(NARROW, use_se=True), CLASSES),
    "RepVGG": lambda: repvgg.RepVGG(repvgg.Variant((1, 2, 2, 1), NARROW, groups=2, use_se=True), CLASSES),
    "FasterNet GELU": lambda: fasternet.FasterNet(fasternet.Variant(16, (1, 1, 2, 1), nn.GELU, 0.0), CLASSES),
    "FasterNet ReLU": lambda: fasternet.FasterNet(fasternet.Variant(16, (1, 1, 2, 1), nn.ReLU, 0.0), CLASSES),
}


def make_pictures(count: int, seed: int = 0) -> np.ndarray:
    """Smooth random pictures, prepared: (N, 3, H, W)."""
    rng = np.random.default_rng(seed)
    coarse = rng.standard_normal((count, 3, 4, 4)).astype(np.float32)
    return coarse.repeat(PIXELS // 4, axis=2).repeat(PIXELS // 4, axis=3)


@pytest.fixture(scope="session", params=NETS)
def fp32(request, tmp_path_factory) -> onnx.ModelProto:
    """The exported graph, whose random channels have ranges as unlike as those of fused branches."""
    pytest.importorskip("paddle2onnx", reason="needs paddle2onnx, which has no wheel for Python 3.13")
    paddle.seed(0)
    with pytest.MonkeyPatch.context() as patch:  # 22 random pairs would magnify any rounding beyond recognition
        patch.setattr(mobileone, "STAGE_PAIRS", (1, 1, 2, 1))
        patch.setattr(mobileone, "SE_PAIRS", (0, 0, 1, 1))
        net = NETS[request.param]()
    randomise_norms(net, 0)
    rng = np.random.default_rng(0)
    for layer in net.sublayers():
        if isinstance(layer, nn.BatchNorm2D):
            layer.weight.set_value(
                layer.weight * paddle.to_tensor(rng.lognormal(0, 0.4, layer.weight.shape), "float32")
            )
            layer._momentum = 0.0  # one pass sets the statistics
        if isinstance(layer, nn.Linear):
            layer.weight.set_value(paddle.randn(layer.weight.shape))
    with paddle.no_grad():
        net.train()
        net(paddle.to_tensor(make_pictures(64, seed=2)))
    metadata = Metadata("RepVGG_A0", Preprocessing(resize_short=PIXELS, crop=(PIXELS, PIXELS)))
    path = tmp_path_factory.mktemp("fp32") / "net.onnx"
    export_onnx(net, path, image_shape=(3, PIXELS, PIXELS), opset=20, metadata=metadata.to_properties())
    return onnx.load(path)
