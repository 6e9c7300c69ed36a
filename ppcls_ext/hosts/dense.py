"""What PaddleDetection and PaddleSeg share: networks without heads, proved exports, a change that both need."""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import paddle
from paddle import Tensor, nn

from ppcls_ext.errors import FusedWeightsError
from ppcls_ext.export.fusion_proof import fuse_with_proof, require_no_branches
from ppcls_ext.export.program import compare_program
from ppcls_ext.hosts.adaptation import Adaptation, Extended, patch, raises
from ppcls_ext.models.backbone import Backbone
from ppcls_ext.models.factories import FACTORIES

logger = logging.getLogger("ppcls_ext")


def build_net(arch: str, pretrained: str | bool | None, fused: bool, in_channels: int = 3) -> Backbone:
    """Returns the network of a name without its head, in the form that its family has for dense prediction.

    Args:
        arch: one of `ppcls_ext.list_models()`.
        pretrained: a weights file of any known kind, with a classifier or without; True for the published one.
        fused: build the one-convolution form.
        in_channels: channels of the images.

    Raises:
        PpclsExtError: there are no such weights, or they do not fit, or they are fused and the network is not.
    """
    factory = FACTORIES[arch]
    try:
        dense = factory.net.dense  # type: ignore[attr-defined]
        return factory(pretrained=pretrained or False, fused=fused, in_channels=in_channels, **dense)
    except FusedWeightsError as error:
        raise FusedWeightsError(f"{error}; in a detector's or segmenter's YAML: {arch} with fused: True") from error


def nets_of(model: nn.Layer) -> list[Backbone]:
    """Returns this package's networks inside a host's model."""
    return [layer for layer in model.sublayers(include_self=True) if isinstance(layer, Backbone)]


def are_exports_proved(module: ModuleType) -> bool:
    """Returns whether `prove_exports` has changed a host's file."""
    return isinstance(module.paddle, Extended)


def prove_exports(module: ModuleType, arguments: Callable[[Mapping[str, Tensor]], Any]) -> None:
    """Makes a host's file that exports fuse our networks and prove the program before its files appear.

    The file gets a `paddle` of its own with other `jit.to_static` and `jit.save`.

    Args:
        module: the file.
        arguments: makes the model's argument from the program's inputs by name.
    """
    jit = paddle.jit

    def to_static(model: Any, *args: Any, **kwargs: Any) -> Any:
        for net in nets_of(model) if isinstance(model, nn.Layer) else ():
            fuse_with_proof(net)
        return jit.to_static(model, *args, **kwargs)

    def save(layer: Any, path: str, *args: Any, **kwargs: Any) -> None:
        if not isinstance(layer, nn.Layer) or not nets_of(layer):
            jit.save(layer, path, *args, **kwargs)
            return
        for net in nets_of(layer):
            require_no_branches(net)
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".proving_") as folder:
            jit.save(layer, str(Path(folder, target.name)), *args, **kwargs)
            difference = compare_program(layer, Path(folder, target.name), arguments)
            for file in sorted(Path(folder).iterdir()):
                os.replace(file, target.parent / file.name)
        logger.info("%s: from the trained model the program differs by %.1e (relative)", target, difference)

    patch(module, "paddle", Extended(paddle, jit=Extended(jit, to_static=to_static, save=save)))


def _tensors_are_no_scalars() -> bool:
    return raises(TypeError, int, paddle.ones([1]))


def _scalars_of_tensors() -> None:
    # int() of a tensor is NumPy's int() of an array, an error for a 1-element array from NumPy 2.4 on
    for name in ("__int__", "__long__", "__float__", "__index__"):
        patch(paddle.Tensor, name, _of_0_d(getattr(paddle.Tensor, name)))


def _of_0_d(method: Callable[[paddle.Tensor], Any]) -> Callable[[paddle.Tensor], Any]:
    return lambda tensor: method(tensor.reshape([]) if tensor.ndim and tensor.size == 1 else tensor)


#: For today's NumPy.
SCALARS = Adaptation(
    "scalars of tensors", "paddle/base/dygraph/math_op_patch.py, _int_", _tensors_are_no_scalars, _scalars_of_tensors
)
