"""Turns a family's table of variants into the factories that PaddleClas calls."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

from ppcls_ext.errors import PpclsExtError
from ppcls_ext.hosts.paddleclas.registry import tell_replaced
from ppcls_ext.models.backbone import Backbone
from ppcls_ext.weights.files import read_weight_file
from ppcls_ext.weights.loading import load_weights
from ppcls_ext.weights.published import PUBLISHED, fetch

Factory = Callable[..., Backbone]


def make_factories(net: type[Backbone], variants: Mapping[str, Any]) -> dict[str, Factory]:
    """One factory per row of `variants`, under the row's name.

    Args:
        net: built as `net(variant, class_num=…, fused=…, **kwargs)`.
        variants: name → whatever `net` takes as its variant.
    """
    return {name: _make_factory(net, name, variant) for name, variant in variants.items()}


def _make_factory(net: type[Backbone], name: str, variant: Any) -> Factory:
    def factory(
        pretrained: bool | str = False,
        use_ssld: bool = False,
        class_num: int = 1000,
        fused: bool = False,
        in_channels: int = 3,
        freeze: bool | int = False,
        **kwargs: Any,
    ) -> Backbone:
        if not isinstance(class_num, int) or isinstance(class_num, bool) or class_num < 0:
            raise PpclsExtError(
                f"class_num of {name} is {class_num!r}: expected a whole number of classes, 0 for no classifier"
            )
        if type(in_channels) is not int or in_channels < 1:
            raise PpclsExtError(f"in_channels of {name} is {in_channels!r}: expected a whole number from 1")
        tell_replaced(name)
        source: Any = False
        if pretrained in (True, PUBLISHED) and use_ssld:
            raise PpclsExtError(f"no SSLD weights of {name} are published: leave use_ssld at False")
        if pretrained:
            source = read_weight_file(fetch(pretrained, name))
            kwargs = {**net.form_of(source.tensors), **{key: said for key, said in kwargs.items() if said is not None}}
        if in_channels != 3:  # a family may know images of three channels alone
            kwargs["in_channels"] = in_channels
        model = net(variant, class_num=class_num, fused=bool(fused), **kwargs)
        model.arch = name
        model.blueprint = functools.partial(factory, class_num=class_num, **kwargs)
        if pretrained:
            load_weights(model, source, allow_other_classes=True, allow_other_channels=True)
        if freeze is not False:
            model.freeze(None if freeze is True else freeze)
        return model

    made: Any = factory
    made.__name__ = made.__qualname__ = name
    made.__module__ = net.__module__
    made.net = net
    made.__doc__ = f"""{name}, a `{net.__name__}`.

    Args:
        pretrained: a weights file (see `ppcls_ext.load_weights`) or its address, or True or "published" for the
            published ones.
        use_ssld: with `pretrained=True`, the weights distilled by PaddleClas (none are published for this family).
        class_num: classes of the head; with another number than the weights' the head starts afresh; 0 leaves the
            classifier out, and the model returns its inputs.
        fused: build the one-convolution form directly.
        in_channels: channels of the images; with another number than the 3 of the weights, their first convolution is
            adapted (see `ppcls_ext.load_weights`).
        freeze: a number, 1 to 4, keeps the stem and that many stages from learning; True all but the classifier (see
            `Backbone.freeze`).
        features_only: leave the head out; the model returns the list of the four stages' maps, whose sizes are in
            `channels` and `strides`.
        **kwargs: `return_stages`, `return_patterns`, `stop_after`, `freeze_befor` (see `Backbone.set_outputs`), and the
            family's own (see `{net.__name__}`).
    """
    return made
