"""Training over changing shapes keeps its memory."""

from __future__ import annotations

import sys
from pathlib import Path

import paddle
import pytest
from paddle import nn

from ppcls_ext.layers.rep_conv import BranchNames, RepConv
from ppcls_ext.onednn import find, library

NAMES = BranchNames("conv", "scale", "identity", "fused")


def resident() -> float:
    """MiB of this process in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 2**20


@pytest.mark.skipif(sys.platform != "linux" or find.library() is None, reason="reads /proc, and needs oneDNN")
def test_three_hundred_steps_over_changing_shapes(monkeypatch):
    monkeypatch.setattr(library, "CAPACITY", 150)  # of the 600 that these steps use, so that old ones go
    find._search.cache_clear()
    paddle.seed(0)
    net = nn.Sequential(
        RepConv(3, 8, 3, 2, 1, NAMES), RepConv(8, 8, 3, 1, 8, NAMES, conv_branches=2), RepConv(8, 16, 1, 1, 1, NAMES, 2)
    )
    optimizer = paddle.optimizer.Momentum(0.01, parameters=net.parameters())
    at = {}
    for step in range(300):
        size = 24 + step % 20
        loss = (net(paddle.randn([1 + step % 4, 3, size, size + 3])) ** 2).mean()
        loss.backward()
        optimizer.step()
        optimizer.clear_grad()
        at[step] = resident()
    find._search.cache_clear()
    assert at[299] - at[99] < 6, [round(at[step]) for step in range(0, 300, 20)]
