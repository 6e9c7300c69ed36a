"""ppcls_ext: re-parameterizable backbones for PaddleClas.

MobileOne, RepVGG and FasterNet train with many branches and are shipped as plain convolutions. Importing this package
imports neither Paddle nor PaddleClas; each function does so when it is called.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from paddle import nn

    from ppcls_ext.models.backbone import Backbone
    from ppcls_ext.weights.loading import LoadReport, Source

__version__ = "0.1.0"
__all__ = [
    "build",
    "list_models",
    "load_weights",
    "register",
    "register_in_paddledet",
    "register_in_paddleseg",
    "reparameterize",
]


def register() -> None:
    """Publishes every factory in PaddleClas's backbone registry; calling it again changes nothing.

    Raises:
        PpclsExtError: no PaddleClas is found.
    """
    from ppcls_ext.host.registry import register as publish
    from ppcls_ext.models.factories import FACTORIES

    publish(FACTORIES)


def register_in_paddledet() -> None:
    """Publishes every model as a backbone of PaddleDetection; calling it again changes nothing.

    Also adapts PaddleDetection to this Paddle and NumPy where it fails, and makes its export fuse with proof.

    Raises:
        PpclsExtError: no PaddleDetection is found, or a wheel that does not train on Paddle 3.
    """
    from ppcls_ext.downstream.paddledet import register as publish

    publish()


def register_in_paddleseg() -> None:
    """Publishes every model as a backbone of PaddleSeg; see `register_in_paddledet`."""
    from ppcls_ext.downstream.paddleseg import register as publish

    publish()


def list_models() -> list[str]:
    """Names of all factories, e.g. "MobileOne_S0", "RepVGG_B1g4", "FasterNet_T0"."""
    from ppcls_ext.models.table import MODELS

    return list(MODELS)


def build(name: str, **kwargs: Any) -> Backbone:
    """Builds a model without PaddleClas's YAML.

    Args:
        name: one of `list_models()`.
        **kwargs: `pretrained`, `class_num`, `fused`, `features_only`, `return_stages`, … (see the factory's docstring).

    Raises:
        PpclsExtError: unknown name (the nearest ones are suggested) or argument.
    """
    from ppcls_ext.models.factories import build as build_model

    return build_model(name, **kwargs)


def reparameterize(model: nn.Layer) -> nn.Layer:
    """A fused deep copy of `model` in eval mode; see `ppcls_ext.reparam.fuse.reparameterize`."""
    from ppcls_ext.reparam.fuse import reparameterize as fuse_copy

    return fuse_copy(model)


def load_weights(model: nn.Layer, source: Source, *, allow_other_classes: bool = False) -> LoadReport:
    """Loads weights, all of them or none; see `ppcls_ext.weights.loading.load_weights`."""
    from ppcls_ext.weights.loading import load_weights as load

    return load(model, source, allow_other_classes=allow_other_classes)
