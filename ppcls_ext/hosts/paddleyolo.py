"""PaddleYOLO, which is PaddleDetection's package `ppdet` with other detectors: what it needs beyond that.

`hosts/paddledet` registers the backbones in both, and applies these changes after its own.
"""

from __future__ import annotations

import importlib.util
import inspect
from types import SimpleNamespace
from typing import Any

import paddle
from paddle import Tensor, nn
from paddle.static import InputSpec
from PIL import ImageDraw

from ppcls_ext.hosts.adaptation import Adaptation, Extended, mentions, patch, raises
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


def _labels_are_int32() -> bool:
    from ppdet.modeling.assigners.task_aligned_assigner import TaskAlignedAssigner

    label, one, centre = paddle.zeros([1, 1, 1], "int32"), paddle.ones([1, 1, 1]), paddle.ones([1, 2])
    box = paddle.to_tensor([[[0.0, 0.0, 2.0, 2.0]]])
    # Paddle 3 promotes no integers: those of the labels' kind fail where they are added to indices, which are int64
    return raises(TypeError, TaskAlignedAssigner(topk=1), one, box, centre, [1], label, box, one, 1)


def _labels_of_int64() -> None:
    from ppdet.modeling.assigners.task_aligned_assigner import TaskAlignedAssigner

    original = TaskAlignedAssigner.forward

    def forward(self: Any, *args: Any, **kwargs: Any) -> tuple[Tensor, ...]:
        *before, labels = args[:5]
        return original(self, *before, labels.astype("int64"), *args[5:], **kwargs)

    patch(TaskAlignedAssigner, "forward", forward)


def _suppression_fails() -> bool:
    from ppdet.modeling import ops

    def suppress(boxes: Tensor, scores: Tensor) -> Tensor:
        return ops.multiclass_nms(boxes, scores, score_threshold=0.5, nms_top_k=1, keep_top_k=1)[0]

    specs = [InputSpec([1, 1, 4], "float32", "boxes"), InputSpec([1, 1, 1], "float32", "scores")]
    program = paddle.jit.to_static(suppress, input_spec=specs, full_graph=True)
    return raises(TypeError, lambda: program.concrete_program)


def _suppression_in_programs() -> None:
    from ppdet.modeling import ops

    original = ops.multiclass_nms
    signature = inspect.signature(original)

    @paddle.jit.not_to_static
    def multiclass_nms(*args: Any, **kwargs: Any) -> tuple[Tensor, Tensor, Tensor | None]:
        if paddle.in_dynamic_mode():
            return original(*args, **kwargs)
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        given = bound.arguments
        settings = [given[name] for name in _SETTINGS]
        boxes, index, number = paddle._C_ops.multiclass_nms3(
            given["bboxes"], given["scores"], given["rois_num"], *settings
        )
        return boxes, number, index if given["return_index"] else None

    patch(ops, "multiclass_nms", multiclass_nms)


#: In the order of Paddle's operator.
_SETTINGS = (
    "score_threshold",
    "nms_top_k",
    "keep_top_k",
    "nms_threshold",
    "normalized",
    "nms_eta",
    "background_label",
)


class _Pen(ImageDraw.ImageDraw):
    """Pillow's, with the method that Pillow 10 removed."""

    def textsize(self, text: str) -> tuple[float, float]:
        """Width and height that a text takes from where it is drawn."""
        _, _, width, height = self.textbbox((0, 0), text)
        return width, height


def _texts_have_no_size() -> bool:
    from ppdet.utils import visualizer

    return mentions(visualizer, "draw.textsize") and not hasattr(visualizer.ImageDraw.ImageDraw, "textsize")


def _sizes_of_texts() -> None:
    from ppdet.utils import visualizer

    patch(visualizer, "ImageDraw", Extended(visualizer.ImageDraw, ImageDraw=_Pen, Draw=_Pen))


ADAPTATIONS = (
    Adaptation("grids", "ppdet/modeling/heads/yolov7_head.py, make_grid", _grids_are_integers, _grids_of_floats),
    # the trainer draws all weights anew after the model is built, those that `pretrained` names too
    Adaptation("backbone weights", "ppdet/engine/trainer.py, __init__", _weights_are_reset, _weights_of_ours_stay),
    Adaptation(
        "labels", "ppdet/modeling/assigners/task_aligned_assigner.py, forward", _labels_are_int32, _labels_of_int64
    ),
    # its branch for programs writes those of Paddle 2
    Adaptation("suppression", "ppdet/modeling/ops.py, multiclass_nms", _suppression_fails, _suppression_in_programs),
    Adaptation("text sizes", "ppdet/utils/visualizer.py, draw_bbox", _texts_have_no_size, _sizes_of_texts),
)
