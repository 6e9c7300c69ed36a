"""What PaddleDetection and PaddleSeg need on today's Paddle, NumPy and without a network.

As for PaddleClas: each adaptation names the file that fails, is applied only where a probe shows that it does, and
touches nothing else.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import paddle

from ppcls_ext.hosts.adaptation import Adaptation, Extended, mentions, patch, patched, raises

logger = logging.getLogger("ppcls_ext")


def _tensors_are_no_scalars() -> bool:
    return raises(TypeError, int, paddle.ones([1]))


def _scalars_of_tensors() -> None:
    # NumPy 2.4 takes int() of a 1-element array for an error, through which Paddle makes int() of a tensor
    for name in ("__int__", "__long__", "__float__", "__index__"):
        patch(paddle.Tensor, name, _of_0_d(getattr(paddle.Tensor, name)))


def _of_0_d(method: Callable[[paddle.Tensor], Any]) -> Callable[[paddle.Tensor], Any]:
    return lambda tensor: method(tensor.reshape([]) if tensor.ndim and tensor.size == 1 else tensor)


def _imgaug_fails() -> bool:
    return "imgaug" not in sys.modules and bool(importlib.util.find_spec("imgaug")) and not hasattr(np, "sctypes")


def _imgaug_with_sctypes() -> None:
    sctypes: dict[str, list[type]] = {"float": [], "int": [], "uint": []}
    for kind in np.typecodes["AllFloat"] + np.typecodes["AllInteger"]:
        scalar = np.dtype(kind).type
        name = "float" if kind in "efdg" else "uint" if issubclass(scalar, np.unsignedinteger) else "int"
        if issubclass(scalar, (np.floating, np.integer)) and scalar not in sctypes[name]:
            sctypes[name].append(scalar)
    with patched(np, "sctypes", sctypes):
        importlib.import_module("imgaug")


def _picture_ids_fail() -> bool:
    from ppdet.engine import trainer

    asks = mentions(trainer, "int(im_id)")
    return asks and not hasattr(trainer, "int") and raises(TypeError, int, np.ones(1))


def _picture_ids_of_arrays() -> None:
    from ppdet.engine import trainer

    patch(trainer, "int", _Int)  # a global of this file hides the builtin


class _AsInt(type):
    def __instancecheck__(cls, value: Any) -> bool:
        return isinstance(value, int)


class _Int(int, metaclass=_AsInt):
    """`int`, of arrays of one element too."""

    def __new__(cls, value: Any = 0, *base: Any) -> Any:
        return int(value.item() if isinstance(value, np.ndarray) and value.size == 1 else value, *base)


def _font_is_far() -> bool:
    from ppdet.utils import visualizer

    downloads = mentions(visualizer, "simfang.ttf")
    return downloads and not isinstance(visualizer.ImageFont, Extended) and not _font().exists()


def _font() -> Path:
    return Path("~/.cache/paddle/simfang.ttf").expanduser()


def _font_of_pillow() -> None:
    from PIL import ImageFont
    from ppdet.utils import visualizer

    def truetype(path: str, size: int, **options: Any) -> Any:
        logger.info("labels are drawn in Pillow's font; put simfang.ttf at %s for PaddleDetection's", _font())
        return ImageFont.load_default(size)

    get_path = visualizer.get_path
    patch(visualizer, "get_path", lambda url, *rest: (url, True) if url.endswith(".ttf") else get_path(url, *rest))
    patch(visualizer, "ImageFont", Extended(ImageFont, truetype=truetype))


_SCALARS = Adaptation(
    "scalars of tensors", "paddle/base/dygraph/math_op_patch.py, _int_", _tensors_are_no_scalars, _scalars_of_tensors
)
#: In this order: PaddleDetection cannot be imported before the first two.
PADDLEDET = (
    _SCALARS,
    Adaptation("imgaug", "ppdet/data/source/culane.py", _imgaug_fails, _imgaug_with_sctypes),
    Adaptation("picture ids", "ppdet/engine/trainer.py, predict", _picture_ids_fail, _picture_ids_of_arrays),
    Adaptation("font", "ppdet/utils/visualizer.py, draw_bbox", _font_is_far, _font_of_pillow),
)
PADDLESEG = (_SCALARS,)  # paddleseg/core/train.py ends in paddle.flops
