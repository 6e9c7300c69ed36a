"""PaddleYOLO, which is PaddleDetection's package `ppdet` with other detectors: what it needs beyond that.

`hosts/paddledet` registers the backbones in both, and applies these changes after its own.
"""

from __future__ import annotations

import importlib.util
from types import SimpleNamespace
from typing import Any

import paddle
from paddle import Tensor, nn

from ppcls_ext.hosts.adaptation import Adaptation, patch, raises
from ppcls_ext.hosts.dense import nets_of


def _grids_are_integers() -> bool:
    if importlib.util.find_spec("ppdet.modeling.heads.yolov7_head") is None:
        return False
    from ppdet.modeling.heads.yolov7_head import YOLOv7Head

    anchor = paddle.ones([1, 2], "int32")
    grid, anchor_grid = YOLOv7Head.make_grid(SimpleNamespace(num_anchor=1), 1, 1, anchor)
    # Paddle 3 promotes no integers to floats: the line that adds them to the network's answer fails
    return raises(TypeError, lambda: paddle.ones([1]) + grid) or raises(
        TypeError, lambda: paddle.ones([1]) * anchor_grid
    )


def _grids_of_floats() -> None:
    from ppdet.modeling.heads.yolov7_head import YOLOv7Head

    original = YOLOv7Head.make_grid

    def make_grid(self: Any, nx: int, ny: int, anchor: Tensor) -> tuple[Tensor, Tensor]:
        grid, anchor_grid = original(self, nx, ny, anchor)
        return grid.astype("float32"), anchor_grid.astype("float32")

    patch(YOLOv7Head, "make_grid", make_grid)


def _weights_are_reset() -> bool:
    from ppdet.engine import trainer

    reset = getattr(trainer, "reset_initialized_parameter", None)
    return reset is not None and reset.__module__ != __name__


def _weights_of_ours_stay() -> None:
    from ppdet.engine import trainer

    reset = trainer.reset_initialized_parameter

    def reset_others(model: nn.Layer, include_self: bool = True) -> None:
        kept = [(value, value.clone()) for net in nets_of(model) for value in net.state_dict().values()]
        reset(model, include_self)
        for value, before in kept:
            value.set_value(before)

    patch(trainer, "reset_initialized_parameter", reset_others)


ADAPTATIONS = (
    Adaptation("grids", "ppdet/modeling/heads/yolov7_head.py, make_grid", _grids_are_integers, _grids_of_floats),
    # the trainer draws all weights anew after the model is built, those that `pretrained` names too
    Adaptation("backbone weights", "ppdet/engine/trainer.py, __init__", _weights_are_reset, _weights_of_ours_stay),
)
