"""Training and evaluation under `paddle.jit.to_static`, by both of Paddle's tracers, equal to the eager run."""

from __future__ import annotations

import paddle
import pytest

import ppcls_ext
from tests.helpers import relative


@pytest.mark.parametrize(
    ("name", "training", "full_graph"),
    [(name, training, True) for name in ("MobileOne_S1", "RepVGG_A0", "FasterNet_T0") for training in (True, False)]
    + [("FasterNet_T0", True, False), ("FasterNet_T0", False, False)],
)
def test_traced_equals_eager(name, training, full_graph):
    paddle.seed(0)
    model = ppcls_ext.build(name, class_num=4)
    model.train() if training else model.eval()
    paddle.seed(1)
    x = paddle.randn([2, 3, 64, 64])
    with paddle.no_grad():
        expected = model(x)
    traced = paddle.jit.to_static(model, full_graph=full_graph)
    y = traced(x)
    assert relative(y, expected) < 1e-2  # batch 2 on maps of 2×2 px magnifies rounding
    if training:
        y.sum().backward()
        assert all(value.grad is not None for value in model.parameters() if not value.stop_gradient)
