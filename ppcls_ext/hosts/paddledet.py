"""PaddleDetection and PaddleYOLO, whose package is `ppdet` too: the networks as their backbones, and the changes to it.

The changes are for today's Paddle and NumPy, for machines without a network, and for proved exports. As for PaddleClas,
each names the file that it is about, is applied only where a probe shows that it is needed, and touches nothing else.
"""

from __future__ import annotations

import importlib
import importlib.util
import io
import logging
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from paddle import Tensor, nn

from ppcls_ext.errors import PpclsExtError
from ppcls_ext.export.fusion_proof import fuse_with_proof
from ppcls_ext.hosts import checkouts, paddleyolo
from ppcls_ext.hosts.adaptation import Adaptation, apply_needed, mentions, patch, patched, raises
from ppcls_ext.hosts.dense import SCALARS, are_exports_proved, build_net, prove_exports
from ppcls_ext.models.table import MODELS

logger = logging.getLogger("ppcls_ext")


class DetectionBackbone(nn.Layer):
    """A network as PaddleDetection calls its backbones; there is a subclass with the name of each network.

    Args:
        return_idx: indices of the maps that the neck gets, of the four at strides 4, 8, 16 and 32.
        freeze_at: the stem and the stages 0 to this one keep their weights and statistics; -1 freezes nothing.
        freeze_norm: whether all batch normalizations use their running statistics and keep their parameters.
        pretrained: a weights file of any kind that `ppcls_ext.load_weights` reads, loaded strictly; True for the
            published one.
        fused: whether to train the one-convolution form (for weights that are published fused).

    Raises:
        PpclsExtError: an argument out of range, or weights that do not fit.
    """

    arch: str

    def __init__(
        self,
        return_idx: Sequence[int] = (1, 2, 3),
        freeze_at: int = -1,
        freeze_norm: bool = False,
        pretrained: str | bool | None = None,
        fused: bool = False,
    ) -> None:
        super().__init__()
        indices = [return_idx] if isinstance(return_idx, int) else list(return_idx)
        if not indices or indices != sorted(set(indices)) or not set(indices) <= set(range(4)):
            raise PpclsExtError(f"return_idx of {self.arch} is {return_idx!r}: expected rising numbers from 0 to 3")
        if freeze_at not in range(-1, 4):
            raise PpclsExtError(f"freeze_at of {self.arch} is {freeze_at!r}: expected -1 to 3")
        self.return_idx = indices
        self.net = build_net(self.arch, pretrained, fused)
        if freeze_at >= 0:
            frozen = [layer for part in self.net.parts()[: freeze_at + 2] for layer in part]
            freeze_parameters(frozen)
            freeze_norms(frozen)
        if freeze_norm:
            freeze_norms([self.net])

    def forward(self, inputs: Mapping[str, Tensor]) -> list[Tensor]:
        """`inputs["image"]: (N, 3, H, W)` → the maps of `return_idx`."""
        maps = self.net(inputs["image"])
        return [maps[index] for index in self.return_idx]

    @property
    def out_shape(self) -> list[Any]:
        """Channels and stride of each map, as PaddleDetection's ShapeSpec."""
        from ppdet.modeling.shape_spec import ShapeSpec

        return [ShapeSpec(channels=self.net.channels[i], stride=self.net.strides[i]) for i in self.return_idx]

    def convert_to_deploy(self) -> None:
        """Fuses every block, proved equal; PaddleDetection's export calls it on its copy of the model."""
        fuse_with_proof(self.net)


def freeze_parameters(layers: Iterable[nn.Layer]) -> None:
    """Excludes all parameters of `layers` from training."""
    for layer in layers:
        for parameter in layer.parameters():
            parameter.stop_gradient = True


def freeze_norms(layers: Iterable[nn.Layer]) -> None:
    """Makes every batch normalization in `layers` use its running statistics and keep its parameters."""
    for layer in layers:
        for norm in layer.sublayers(include_self=True):
            if isinstance(norm, nn.BatchNorm2D):
                norm._use_global_stats = True
                norm.weight.stop_gradient = norm.bias.stop_gradient = True


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
    return downloads and visualizer.get_path.__module__ != __name__ and not _font().exists()


def _font() -> Path:
    return Path("~/.cache/paddle/simfang.ttf").expanduser()


def _use_font_of_pillow() -> None:
    from PIL import ImageFont
    from ppdet.utils import visualizer

    get_path = visualizer.get_path

    def get_font_or_path(url: str, *rest: Any) -> tuple[Any, bool]:
        if not url.endswith(".ttf"):
            return get_path(url, *rest)
        logger.info("labels are drawn in Pillow's font; put simfang.ttf at %s for PaddleDetection's", _font())
        font: Any = ImageFont.load_default(size=1)
        return io.BytesIO(font.path.getvalue()), True  # read as a path would be

    patch(visualizer, "get_path", get_font_or_path)


def _exports_are_unproved() -> bool:
    from ppdet.engine import trainer

    return not are_exports_proved(trainer)


def _proved_exports() -> None:
    from ppdet.engine import trainer

    prove_exports(trainer, arguments=dict)


#: In this order: PaddleDetection cannot be imported before the first two.
ADAPTATIONS = (
    SCALARS,
    Adaptation("imgaug", "ppdet/data/source/culane.py", _imgaug_fails, _import_imgaug_with_sctypes),
    Adaptation("image ids", "ppdet/engine/trainer.py, predict", _image_ids_fail, _image_ids_of_arrays),
    Adaptation("font", "ppdet/utils/visualizer.py, draw_bbox", _font_is_missing, _use_font_of_pillow),
    Adaptation("proved exports", "ppdet/engine/trainer.py, export", _exports_are_unproved, _proved_exports),
)


def register(root: Path | None = None) -> None:
    """See `ppcls_ext.register_in_paddledet`; `root`: the checkout, where it is known."""
    only_yolo = not os.environ.get(checkouts.PADDLEDET.home) and bool(os.environ.get(checkouts.PADDLEYOLO.home))
    checkouts.activate(checkouts.PADDLEYOLO if only_yolo else checkouts.PADDLEDET, root)
    apply_needed((*ADAPTATIONS, *paddleyolo.ADAPTATIONS))
    from ppdet.core.workspace import global_config, serializable
    from ppdet.core.workspace import register as publish

    for arch in MODELS:
        ours = BACKBONES[arch]
        registered = global_config.get(arch)
        if registered is not None and getattr(registered, "pymodule", None) is sys.modules[__name__]:
            continue
        if registered is not None:
            raise PpclsExtError(f"{arch} is already registered in PaddleDetection, by {registered.pymodule.__name__}")
        publish(serializable(ours))


def _backbone(arch: str) -> type[DetectionBackbone]:
    doc = f"{arch} as a backbone; the arguments are `DetectionBackbone`'s."
    return type(arch, (DetectionBackbone,), {"arch": arch, "__module__": __name__, "__doc__": doc})


#: name → class; PaddleDetection looks for the class under its name in this module.
BACKBONES = {arch: _backbone(arch) for arch in MODELS}
globals().update(BACKBONES)
