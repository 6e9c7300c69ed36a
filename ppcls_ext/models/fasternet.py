"""FasterNet: run, don't walk.

Paper: "Run, Don't Walk: Chasing Higher FLOPS for Faster Neural Networks", arXiv 2303.03667. Official code:
github.com/JierunChen/FasterNet (`models/fasternet.py`, commit e8fba44), MIT licence.

Differs from the official code, and from PaddleClas's `FasterNet`, in:
- every convolution → batch normalisation pair folds into one convolution (one-branch re-parameterization);
- partial convolution always splits and concatenates (the slicing form modifies its input and exports badly);
- batch normalisation uses momentum 0.9 everywhere and keeps Paddle's biased running variance.
State-dict names are those of PaddleClas 2.6, whose published weights load unchanged, and the official ones.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import paddle
from paddle import Tensor, nn

from ppcls_ext.layers.conv_norm import ConvNorm
from ppcls_ext.layers.drop_path import DropPath
from ppcls_ext.models.backbone import Backbone
from ppcls_ext.models.factory import make_factories


class Variant(NamedTuple):
    """Channels of the first stage, blocks per stage, activation, largest stochastic-depth rate (paper, table 7)."""

    channels: int
    depths: tuple[int, int, int, int]
    activation: type[nn.Layer]
    drop_path: float


VARIANTS = {
    "FasterNet_T0": Variant(40, (1, 2, 8, 2), nn.GELU, 0.0),
    "FasterNet_T1": Variant(64, (1, 2, 8, 2), nn.GELU, 0.02),
    "FasterNet_T2": Variant(96, (1, 2, 8, 2), nn.ReLU, 0.05),
    "FasterNet_S": Variant(128, (1, 2, 13, 2), nn.ReLU, 0.1),
    "FasterNet_M": Variant(144, (3, 4, 18, 3), nn.ReLU, 0.2),
    "FasterNet_L": Variant(192, (3, 4, 18, 3), nn.ReLU, 0.3),
}

PARTIAL = 4  # the spatial convolution sees one channel in four
MLP_RATIO = 2
HEAD_CHANNELS = 1280


class PartialConv(nn.Layer):
    """A 3×3 convolution over the first quarter of the channels; the others pass.

    Args:
        channels: of the map.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        mixed = channels // PARTIAL
        self.sections = [mixed, channels - mixed]
        self.partial_conv3 = nn.Conv2D(mixed, mixed, 3, padding=1, bias_attr=False)

    def forward(self, x: Tensor) -> Tensor:
        """`x: (N, channels, H, W)` → the same shape."""
        mixed, passed = paddle.split(x, self.sections, axis=1)
        return paddle.concat([self.partial_conv3(mixed), passed], axis=1)


class MLP(ConvNorm):
    """1×1 convolution to twice the channels → BN → activation → 1×1 convolution back."""

    def __init__(self, channels: int, activation: type[nn.Layer], fused: bool) -> None:
        super().__init__(channels, channels * MLP_RATIO, 1, 1, names=("0", "1"), fused=fused)
        self.add_sublayer("2", activation())
        self.add_sublayer("3", nn.Conv2D(channels * MLP_RATIO, channels, 1, bias_attr=False))

    def forward(self, x: Tensor) -> Tensor:
        """`x: (N, channels, H, W)` → the same shape."""
        activation, project = self._sub_layers["2"], self._sub_layers["3"]
        return project(activation(super().forward(x)))


class FasterNetBlock(nn.Layer):
    """`x + drop_path(mlp(partial_conv(x)))`."""

    def __init__(self, channels: int, activation: type[nn.Layer], drop_path: float, fused: bool) -> None:
        super().__init__()
        self.drop_path = DropPath(drop_path)
        self.mlp = MLP(channels, activation, fused)
        self.spatial_mixing = PartialConv(channels)

    def forward(self, x: Tensor) -> Tensor:
        """`x: (N, channels, H, W)` → the same shape."""
        return x + self.drop_path(self.mlp(self.spatial_mixing(x)))


class Stage(nn.Layer):
    """Blocks of one width."""

    def __init__(self, blocks: list[FasterNetBlock]) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*blocks)

    def forward(self, x: Tensor) -> Tensor:
        """`x: (N, C, H, W)` → the same shape."""
        return self.blocks(x)


class FasterNet(Backbone):
    """Patch embedding, four stages with patch merging between them, pooling, 1×1 convolution, linear classifier.

    Args:
        variant: a row of `VARIANTS`.
        class_num: classes of the head.
        fused: build the form without batch normalisation directly.
        fork_feat: for dense prediction: no head; the model returns the list of the four stages' maps, each through its
            own batch normalisation (`norm0`, `norm2`, `norm4`, `norm6`), which stays when the model is fused.
        **kwargs: see `Backbone.set_outputs`.
    """

    stages_pattern = ("stages[0]", "stages[2]", "stages[4]", "stages[6]")
    classifier = "head"
    timm_names = (
        (r"^stages\.(\d)\.blocks\.", lambda match: f"stages.{2 * int(match[1])}.blocks."),
        (r"^stages\.(\d)\.downsample\.", lambda match: f"stages.{2 * int(match[1]) - 1}."),
        (r"^conv_head\.", "avgpool_pre_head.1."),
        (r"^classifier\.", "head."),
    )

    def __init__(
        self, variant: Variant, class_num: int = 1000, fused: bool = False, fork_feat: bool = False, **kwargs: Any
    ) -> None:
        super().__init__()
        channels = variant.channels
        rates = paddle.linspace(0, variant.drop_path, sum(variant.depths)).tolist()
        self.patch_embed = ConvNorm(3, channels, 4, 4, ("proj", "norm"), fused)
        stages = []
        for index, depth in enumerate(variant.depths):
            if index:
                stages.append(ConvNorm(channels, channels * 2, 2, 2, ("reduction", "norm"), fused))
                channels *= 2
            blocks = [FasterNetBlock(channels, variant.activation, rates.pop(0), fused) for _ in range(depth)]
            stages.append(Stage(blocks))
        self.stages = nn.Sequential(*stages)
        self.fork_feat = fork_feat
        if fork_feat:
            for index in range(len(variant.depths)):
                self.add_sublayer(f"norm{2 * index}", nn.BatchNorm2D(variant.channels * 2**index))
            self.may_lack, self.may_ignore = ("norm",), ("avgpool_pre_head.", "head.")
        else:
            self.avgpool_pre_head = nn.Sequential(
                nn.AdaptiveAvgPool2D(1), nn.Conv2D(channels, HEAD_CHANNELS, 1, bias_attr=False), variant.activation()
            )
            self.flatten = nn.Flatten()
            self.head = nn.Linear(HEAD_CHANNELS, class_num)
        for layer in self.sublayers():
            if isinstance(layer, (nn.Conv2D, nn.Linear)):
                nn.initializer.TruncatedNormal(std=0.02)(layer.weight)
        self.set_outputs(**kwargs)

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        """`x: (N, 3, H, W)` → logits (N, class_num), or with `fork_feat` four maps at strides 4, 8, 16 and 32."""
        x = self.patch_embed(x)
        if not self.fork_feat:
            return self.head(self.flatten(self.avgpool_pre_head(self.stages(x))))
        maps = []
        for index, stage in enumerate(self.stages):
            x = stage(x)
            if isinstance(stage, Stage):
                maps.append(self._sub_layers[f"norm{index}"](x))
        return maps


FACTORIES = make_factories(FasterNet, VARIANTS)
globals().update(FACTORIES)
