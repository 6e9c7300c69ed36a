"""What MobileOne and RepVGG share: five stages in a row, pooling, a linear classifier."""

from __future__ import annotations

from collections.abc import Sequence

from paddle import Tensor, nn

from ppcls_ext.layers.rep_blocks import VggBlock
from ppcls_ext.models.backbone import Backbone
from ppcls_ext.weights.naming import Renaming

__all__ = ["VggBlock", "VggLike", "timm_names"]  # a family imports its parts from here

STAGE_CHANNELS = (64, 128, 256, 512)  # at width 1


class VggLike(Backbone):
    """stage0 … stage4 → global pooling → linear classifier. Subclasses make the stages, then call `add_head`."""

    def set_widths(self, widths: Sequence[float]) -> None:
        """Sets the channels of the stem and of the four stages, from the stages' width multipliers."""
        self.stem_channels = min(64, int(64 * widths[0]))
        self.channels = tuple(int(channels * width) for channels, width in zip(STAGE_CHANNELS, widths))
        self.num_features = self.channels[-1]

    def add_head(self, class_num: int, features_only: bool) -> None:
        """Adds pooling and the classifier, which starts from N(0, 0.01²); the classifier only for any classes."""
        self.leave_out_head(class_num, features_only)
        if features_only:
            return
        self.gap = nn.AdaptiveAvgPool2D(1)
        self.flatten = nn.Flatten()
        if class_num:
            self.linear = nn.Linear(self.num_features, class_num, weight_attr=nn.initializer.Normal(std=0.01))

    def parts(self) -> list[list[nn.Layer]]:
        """See `Backbone.parts`."""
        return [[stage] for stage in (self.stage0, self.stage1, self.stage2, self.stage3, self.stage4)]

    def forward_head(self, x: Tensor) -> Tensor:
        """See `Backbone.forward_head`."""
        x = self.flatten(self.gap(x))
        return self.linear(x) if self.class_num else x


def timm_names(branches: Sequence[tuple[str, str]], se_names: tuple[str, str]) -> Renaming:
    """From timm's names, which both families share but for branches and SE, to the official ones.

    Args:
        branches: (timm's name, official name) of each kind of branch.
        se_names: official names of SE's two convolutions.
    """
    return (
        (r"^stem\.", "stage0."),
        (r"^stages\.(\d)\.", lambda match: f"stage{int(match[1]) + 1}."),
        *((rf"\.{theirs}\.", f".{ours}.") for theirs, ours in branches),
        (r"\.attn\.fc1\.", f".se.{se_names[0]}."),
        (r"\.attn\.fc2\.", f".se.{se_names[1]}."),
        (r"^head\.fc\.", "linear."),
    )
