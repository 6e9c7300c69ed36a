"""Changes to PaddleDetection: for today's Paddle and NumPy, for machines without a network, and for proved exports.

As for PaddleClas, each adaptation names the file that it is about, is applied only where a probe shows that it is
needed, and touches nothing else.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import sys
from pathlib import Path
from typing import Any

import numpy as np

from ppcls_ext.hosts.adaptation import Adaptation, Extended, mentions, patch, patched, raises
from ppcls_ext.hosts.dense.adaptations import SCALARS
from ppcls_ext.hosts.dense.nets import are_exports_proved, prove_exports

logger = logging.getLogger("ppcls_ext")


def _imgaug_fails() -> bool:
    return "imgaug" not in sys.modules and bool(importlib.util.find_spec("imgaug")) and not hasattr(np, "sctypes")


def _import_imgaug_with_sctypes() -> None:
    sctypes: dict[str, list[type]] = {"float": [], "int": [], "uint": []}
    for kind in np.typecodes["AllFloat"] + np.typecodes["AllInteger"]:
        scalar = np.dtype(kind).type
        name = "float" if kind in "efdg" else "uint" if issubclass(scalar, np.unsignedinteger) else "int"
        if issubclass(scalar, (np.floating, np.integer)) and scalar not in sctypes[name]:
            sctypes[name].append(scalar)
    with patched(np, "sctypes", sctypes):
        importlib.import_module("imgaug")


def _image_ids_fail() -> bool:
    from ppdet.engine import trainer

    asks = mentions(trainer, "int(im_id)")
    return asks and not hasattr(trainer, "int") and raises(TypeError, int, np.ones(1))


def _image_ids_of_arrays() -> None:
    from ppdet.engine import trainer

    patch(trainer, "int", _Int)  # a name of this file, which comes before the builtin


class _AsInt(type):
    def __instancecheck__(cls, value: Any) -> bool:
        return isinstance(value, int)


class _Int(int, metaclass=_AsInt):
    """`int`, of arrays of one element too."""

    def __new__(cls, value: Any = 0, *base: Any) -> Any:
        return int(value.item() if isinstance(value, np.ndarray) and value.size == 1 else value, *base)


def _font_is_missing() -> bool:
    from ppdet.utils import visualizer

    downloads = mentions(visualizer, "simfang.ttf")
    return downloads and not isinstance(visualizer.ImageFont, Extended) and not _font().exists()


def _font() -> Path:
    return Path("~/.cache/paddle/simfang.ttf").expanduser()


def _use_font_of_pillow() -> None:
    from PIL import ImageFont
    from ppdet.utils import visualizer

    def truetype(path: str, size: int, **options: Any) -> Any:
        logger.info("labels are drawn in Pillow's font; put simfang.ttf at %s for PaddleDetection's", _font())
        return ImageFont.load_default(size)

    get_path = visualizer.get_path
    patch(visualizer, "get_path", lambda url, *rest: (url, True) if url.endswith(".ttf") else get_path(url, *rest))
    patch(visualizer, "ImageFont", Extended(ImageFont, truetype=truetype))


def _exports_are_unproved() -> bool:
    from ppdet.engine import trainer

    return not are_exports_proved(trainer)


def _proved_exports() -> None:
    from ppdet.engine import trainer

    prove_exports(trainer, arguments=dict)


#: In this order: PaddleDetection cannot be imported before the first two.
PADDLEDET = (
    SCALARS,
    Adaptation("imgaug", "ppdet/data/source/culane.py", _imgaug_fails, _import_imgaug_with_sctypes),
    Adaptation("picture ids", "ppdet/engine/trainer.py, predict", _image_ids_fail, _image_ids_of_arrays),
    Adaptation("font", "ppdet/utils/visualizer.py, draw_bbox", _font_is_missing, _use_font_of_pillow),
    Adaptation("proved exports", "ppdet/engine/trainer.py, export", _exports_are_unproved, _proved_exports),
)
