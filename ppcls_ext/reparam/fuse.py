"""Fusing whole models."""

from __future__ import annotations

import copy
from collections.abc import Iterator

from paddle import nn

from ppcls_ext.errors import PpclsExtError
from ppcls_ext.reparam.reparameterizable import Reparameterizable


def reparameterizable_layers(model: nn.Layer) -> Iterator[Reparameterizable]:
    """All layers of `model` that fuse, the model itself included where it is one."""
    for layer in model.sublayers(include_self=True):
        if isinstance(layer, Reparameterizable):
            yield layer


def require_fusible(model: nn.Layer) -> None:
    """Raises PpclsExtError where a layer of `model` holds something that one convolution cannot compute."""
    for name, layer in model.named_sublayers(include_self=True):
        fault = layer.fault() if isinstance(layer, Reparameterizable) else None
        if fault is not None:
            raise PpclsExtError(f"{name or type(layer).__name__} cannot be fused: {fault}")


def reparameterize(model: nn.Layer) -> nn.Layer:
    """A fused deep copy of `model`, in eval mode; `model` itself is left as it was.

    Every re-parameterizable layer of the copy, the root included, holds one convolution and no training branch.

    Raises:
        PpclsExtError: see `require_fusible`.
    """
    require_fusible(model)
    fused = copy.deepcopy(model)
    fused.eval()
    for layer in list(reparameterizable_layers(fused)):
        layer.re_parameterize()
    return fused
