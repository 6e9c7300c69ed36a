"""What MobileOne and RepVGG share: blocks that sum branches, five stages in a row, pooling, a linear classifier."""

from __future__ import annotations

from collections.abc import Sequence

from paddle import Tensor, nn

from ppcls_ext.layers.rep_conv import RepConv
from ppcls_ext.layers.squeeze_excite import SqueezeExcite
from ppcls_ext.models.backbone import Backbone
from ppcls_ext.onednn.elementwise import relu
from ppcls_ext.weights.naming import Renaming

STAGE_CHANNELS = (64, 128, 256, 512)  # at width 1


class VggBlock(RepConv):
    """Sum of branches → squeeze-and-excitation where used → ReLU."""

    #: Names of SE's two convolutions in the state dict.
    se_names: tuple[str, str]

    def add_se(self, use_se: bool) -> None:
        """Puts SE behind the sum, with a 16th of the channels inside, where `use_se`; subclasses call it once."""
        self.se = SqueezeExcite(self.out_channels, self.out_channels // 16, self.se_names) if use_se else None

    def forward(self, x: Tensor, activate: bool = True) -> Tensor:
        """`x: (N, in_channels, H, W)` → (N, out_channels, H / stride, W / stride); `activate`: through the ReLU."""
        if self.se is None:
            return self.convolve(x, activate)
        y = self.se(self.convolve(x))
        return relu(y, self.training) if activate else y


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
