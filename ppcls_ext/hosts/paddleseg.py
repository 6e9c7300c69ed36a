"""PaddleSeg: the networks as its backbones, and the changes to it, each with its probe."""

from __future__ import annotations

from pathlib import Path

from paddle import Tensor, nn

from ppcls_ext.errors import PpclsExtError
from ppcls_ext.hosts import checkouts
from ppcls_ext.hosts.adaptation import Adaptation, apply_needed
from ppcls_ext.hosts.dense import SCALARS, are_exports_proved, build_net, prove_exports
from ppcls_ext.models.table import MODELS


class SegmentationBackbone(nn.Layer):
    """A network as PaddleSeg calls its backbones; there is a subclass with the name of each network.

    Args:
        in_channels: channels of the images; published weights, for 3, are adapted to others.
        pretrained: a weights file of any kind that `ppcls_ext.load_weights` reads, loaded strictly; True for the
            published one.
        fused: whether to train the one-convolution form (for weights that are published fused).
        stem: whether to return the map at stride 2 before the other four, as PP-LiteSeg's configurations expect.

    Attributes:
        feat_channels: channels of the maps that are returned.

    Raises:
        PpclsExtError: the family has no stem map, or the weights do not fit.
    """

    arch: str

    def __init__(
        self, in_channels: int = 3, pretrained: str | bool | None = None, fused: bool = False, stem: bool = False
    ) -> None:
        super().__init__()
        self.net = build_net(self.arch, pretrained, fused, in_channels)
        self.stem = stem
        if stem and not self.net.stem_channels:
            raise PpclsExtError(
                f"{self.arch} has no map at stride 2: leave stem out and lower backbone_indices by one, as in [1, 2, 3]"
            )
        self.feat_channels = [*([self.net.stem_channels] if stem else []), *self.net.channels]

    def forward(self, x: Tensor) -> list[Tensor]:
        """`x: (N, in_channels, H, W)` → the maps, the largest first."""
        return self.net.features(x, stem=self.stem)


def _exports_are_unproved() -> bool:
    from paddleseg.core import export

    return not are_exports_proved(export)


def _proved_exports() -> None:
    from paddleseg.core import export

    prove_exports(export, arguments=lambda inputs: inputs[next(iter(inputs))])


#: In this order.
ADAPTATIONS = (
    SCALARS,  # paddleseg/core/train.py ends in paddle.flops
    Adaptation("proved exports", "paddleseg/core/export.py", _exports_are_unproved, _proved_exports),
)


def register(root: Path | None = None) -> None:
    """See `ppcls_ext.register_in_paddleseg`; `root`: the checkout, where it is known."""
    checkouts.activate(checkouts.PADDLESEG, root)
    apply_needed(ADAPTATIONS)
    from paddleseg.cvlibs import manager

    for arch, ours in BACKBONES.items():
        registered = manager.BACKBONES.components_dict.get(arch)
        if registered is ours:
            continue
        if registered is not None:
            raise PpclsExtError(f"{arch} is already registered in PaddleSeg, by {registered.__module__}")
        manager.BACKBONES.add_component(ours)


def _backbone(arch: str) -> type[SegmentationBackbone]:
    doc = f"{arch} as a backbone; the arguments are `SegmentationBackbone`'s."
    return type(arch, (SegmentationBackbone,), {"arch": arch, "__module__": __name__, "__doc__": doc})


#: name → class; pickles look for the classes under their names in this module.
BACKBONES = {arch: _backbone(arch) for arch in MODELS}
globals().update(BACKBONES)
