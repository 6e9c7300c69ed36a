"""MobileOne: an improved one millisecond mobile backbone.

Paper: "MobileOne: An Improved One millisecond Mobile Backbone", arXiv 2206.04040.
Official code: github.com/apple/ml-mobileone (`mobileone.py`, commit b7f4e6d); licence: Apple's sample code licence
(code), the weights' own terms are in the repository's LICENSE. This file is written from the paper; the official code
served to check it.

Differs from the official code in:
- the training form: the branches of a block are computed together (`ppcls_ext.layers`), to the same result;
- fusion happens in float64 and leaves no branch behind;
- convolutions start from Paddle's default initialisation (He normal), not PyTorch's; the classifier from N(0, 0.01²);
- batch normalisation keeps Paddle's biased running variance.
State-dict names are the official ones, with Paddle's `_mean` and `_variance`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from typing import Any, NamedTuple

from paddle import nn

from ppcls_ext.errors import PpclsExtError
from ppcls_ext.layers.rep_blocks import MobileOneBlock
from ppcls_ext.models.factory import make_factories
from ppcls_ext.models.vgg_like import VggLike, timm_names


class Variant(NamedTuple):
    """Width multipliers of the four stages, conv branches k, and whether the late blocks have SE (paper, table 2)."""

    widths: tuple[float, float, float, float]
    conv_branches: int = 1
    use_se: bool = False


VARIANTS = {
    "MobileOne_S0": Variant((0.75, 1.0, 1.0, 2.0), conv_branches=4),
    "MobileOne_S1": Variant((1.5, 1.5, 2.0, 2.5)),
    "MobileOne_S2": Variant((1.5, 2.0, 2.5, 4.0)),
    "MobileOne_S3": Variant((2.0, 2.5, 3.0, 4.0)),
    "MobileOne_S4": Variant((3.0, 3.5, 3.5, 4.0), use_se=True),
}

STAGE_PAIRS = (2, 8, 10, 1)  # a pair is a depthwise block and a pointwise block
SE_PAIRS = (0, 0, 5, 1)  # how many pairs at the end of each stage have SE, where the variant uses it
NAMES = MobileOneBlock.names
#: A tensor of a conv branch, in the official naming or timm's: its block and its number.
CONV_BRANCH = re.compile(rf"(.*)\.(?:{NAMES.conv}|conv_kxk)\.(\d+)\.")


class MobileOne(VggLike):
    """Stem, four stages of depthwise-pointwise pairs, global pooling, linear classifier.

    Args:
        variant: a row of `VARIANTS`.
        class_num: classes of the head; 0 for no classifier.
        fused: build the one-convolution form directly.
        features_only: no head; the model returns the list of the four stages' maps.
        in_channels: channels of the images.
        num_conv_branches: conv branches k of each block but the stem, for another training form of the same fused
            network; the variant's where it is None (the factories take that of unfused weights).
        **kwargs: see `Backbone.set_outputs`.

    Raises:
        PpclsExtError: `num_conv_branches` is no whole number from 1.
    """

    timm_names = timm_names(
        [("conv_kxk", NAMES.conv), ("conv_scale", NAMES.scale), ("identity", NAMES.identity)], MobileOneBlock.se_names
    )

    def __init__(
        self,
        variant: Variant,
        class_num: int = 1000,
        fused: bool = False,
        features_only: bool = False,
        in_channels: int = 3,
        num_conv_branches: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__()
        conv_branches = variant.conv_branches if num_conv_branches is None else num_conv_branches
        if type(conv_branches) is not int or conv_branches < 1:
            raise PpclsExtError(f"num_conv_branches is {conv_branches!r}: expected a whole number from 1")
        self.in_channels = in_channels
        self.set_widths(variant.widths)
        channels = self.stem_channels
        # the stem has one conv branch in every variant
        self.stage0 = MobileOneBlock(in_channels, channels, 3, stride=2, fused=fused)
        for index in range(4):
            out_channels = self.channels[index]
            blocks = []
            for pair in range(STAGE_PAIRS[index]):
                use_se = variant.use_se and pair >= STAGE_PAIRS[index] - SE_PAIRS[index]
                options = (conv_branches, use_se, fused)
                stride = 2 if pair == 0 else 1
                blocks.append(MobileOneBlock(channels, channels, 3, stride, channels, *options))
                blocks.append(MobileOneBlock(channels, out_channels, 1, 1, 1, *options))
                channels = out_channels
            self.add_sublayer(f"stage{index + 1}", nn.Sequential(*blocks))
        self.add_head(class_num, features_only)
        self.set_outputs(**kwargs)

    @classmethod
    def form_of(cls, names: Iterable[str]) -> dict[str, Any]:
        """See `Backbone.form_of`: the number of conv branches that most blocks have."""
        branches = {found.groups() for name in names if (found := CONV_BRANCH.match(name))}
        numbers = Counter(Counter(block for block, _ in branches).values())
        return {"num_conv_branches": numbers.most_common(1)[0][0]} if numbers else {}


FACTORIES = make_factories(MobileOne, VARIANTS)
globals().update(FACTORIES)
