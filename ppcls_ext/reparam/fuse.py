"""Fusing whole models."""

from __future__ import annotations

import copy
from collections.abc import Iterator

from paddle import nn

from ppcls_ext.reparam.reparameterizable import Reparameterizable


def reparameterizable_layers(model: nn.Layer) -> Iterator[Reparameterizable]:
    """All layers of `model` that fuse, the model itself included where it is one."""
    for layer in model.sublayers(include_self=True):
        if isinstance(layer, Reparameterizable):
            yield layer


def reparameterize(model: nn.Layer) -> nn.Layer:
    """A fused deep copy of `model`, in eval mode; `model` itself is left as it was.

    Every re-parameterizable layer of the copy, the root included, holds one convolution and no training branch.
    """
    fused = copy.deepcopy(model)
    fused.eval()
    for layer in list(reparameterizable_layers(fused)):
        layer.re_parameterize()
    return fused
