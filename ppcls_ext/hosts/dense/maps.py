"""One of our nets as a source of maps: built, given weights, its first stages frozen."""

from __future__ import annotations

from collections.abc import Iterable

from paddle import nn

from ppcls_ext.errors import PpclsExtError
from ppcls_ext.models.backbone import Backbone
from ppcls_ext.models.factories import FACTORIES


def build_net(arch: str, pretrained: str | bool | None, fused: bool) -> Backbone:
    """The headless net of a name, in the form that its family has for dense prediction.

    Args:
        arch: one of `ppcls_ext.list_models()`.
        pretrained: a weights file of any known kind, with a classifier or without; True for the published one.
        fused: build the one-convolution form.

    Raises:
        PpclsExtError: no such weights, or they do not fit, or they are fused and the net is not.
    """
    factory = FACTORIES[arch]
    try:
        return factory(pretrained=pretrained or False, fused=fused, **factory.net.dense)
    except PpclsExtError as error:
        if "fused" not in str(error):
            raise
        raise PpclsExtError(f"{error}; in a detector's or segmenter's YAML: {arch} with fused: True") from error


def freeze_parameters(layers: Iterable[nn.Layer]) -> None:
    """Takes all parameters of `layers` out of training."""
    for layer in layers:
        for parameter in layer.parameters():
            parameter.stop_gradient = True


def freeze_norms(layers: Iterable[nn.Layer]) -> None:
    """Makes every batch normalisation in `layers` use its running statistics and keep its parameters."""
    for layer in layers:
        for norm in layer.sublayers(include_self=True):
            if isinstance(norm, nn.BatchNorm2D):
                norm._use_global_stats = True
                norm.weight.stop_gradient = norm.bias.stop_gradient = True
