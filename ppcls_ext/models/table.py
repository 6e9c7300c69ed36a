"""All models by name, without loading Paddle: each name is a row of its family's table of variants."""

from __future__ import annotations

from typing import NamedTuple


class Model(NamedTuple):
    """One model.

    Attributes:
        family: the module of `ppcls_ext.models` that has its variant and its factory.
        published_top1: on ImageNet, %: the papers' tables and the official READMEs; None where none is published.
        published_px: the side of the images that it was measured on.
    """

    family: str
    published_top1: float | None
    published_px: int = 224


MODELS = {
    "MobileOne_S0": Model("mobileone", 71.4),
    "MobileOne_S1": Model("mobileone", 75.9),
    "MobileOne_S2": Model("mobileone", 77.4),
    "MobileOne_S3": Model("mobileone", 78.1),
    "MobileOne_S4": Model("mobileone", 79.4),
    "RepVGG_A0": Model("repvgg", 72.41),
    "RepVGG_A1": Model("repvgg", 74.46),
    "RepVGG_A2": Model("repvgg", 76.48),
    "RepVGG_B0": Model("repvgg", 75.14),
    "RepVGG_B1": Model("repvgg", 78.37),
    "RepVGG_B1g2": Model("repvgg", 77.78),
    "RepVGG_B1g4": Model("repvgg", 77.58),
    "RepVGG_B2": Model("repvgg", 78.78),
    "RepVGG_B2g2": Model("repvgg", None),
    "RepVGG_B2g4": Model("repvgg", 79.38),
    "RepVGG_B3": Model("repvgg", 80.52),
    "RepVGG_B3g2": Model("repvgg", None),
    "RepVGG_B3g4": Model("repvgg", 80.21),
    "RepVGG_D2se": Model("repvgg", 83.55, 320),
    "FasterNet_T0": Model("fasternet", 71.9),
    "FasterNet_T1": Model("fasternet", 76.2),
    "FasterNet_T2": Model("fasternet", 78.9),
    "FasterNet_S": Model("fasternet", 81.3),
    "FasterNet_M": Model("fasternet", 83.0),
    "FasterNet_L": Model("fasternet", 83.5),
}
