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

from ppcls_ext.layers.branch_sum import is_plain_norm
from ppcls_ext.layers.conv_norm import ConvNorm
from ppcls_ext.layers.fasternet_block import GELU, DropPath, ExpandProject, MixedResidual, PartialConv
from ppcls_ext.models.backbone import Backbone
from ppcls_ext.models.factory import make_factories
from ppcls_ext.onednn.builders import GELU as GELU_OF_ONEDNN
from ppcls_ext.onednn.builders import RELU, Geometry
from ppcls_ext.onednn.convolution import can_convolve, is_supported, plain_geometry, run_conv
from ppcls_ext.onednn.elementwise import add, is_plain
from ppcls_ext.onednn.maps import as_float32, usable


class Variant(NamedTuple):
    """Channels of the first stage, blocks per stage, activation, largest stochastic-depth rate (paper, table 7)."""

    channels: int
    depths: tuple[int, int, int, int]
    activation: type[nn.Layer]
    drop_path: float


VARIANTS = {
    "FasterNet_T0": Variant(40, (1, 2, 8, 2), GELU, 0.0),
    "FasterNet_T1": Variant(64, (1, 2, 8, 2), GELU, 0.02),
    "FasterNet_T2": Variant(96, (1, 2, 8, 2), nn.ReLU, 0.05),
    "FasterNet_S": Variant(128, (1, 2, 13, 2), nn.ReLU, 0.1),
    "FasterNet_M": Variant(144, (3, 4, 18, 3), nn.ReLU, 0.2),
    "FasterNet_L": Variant(192, (3, 4, 18, 3), nn.ReLU, 0.3),
}

PARTIAL = 4  # the spatial convolution sees one channel in four
MLP_RATIO = 2
_ACTIVATIONS = {nn.ReLU: RELU, GELU: GELU_OF_ONEDNN}
HEAD_CHANNELS = 1280


class MLP(ConvNorm):
    """1×1 convolution to twice the channels → BN → activation → 1×1 convolution back."""

    def __init__(self, channels: int, activation: type[nn.Layer], fused: bool) -> None:
        super().__init__(channels, channels * MLP_RATIO, 1, 1, names=("0", "1"), fused=fused)
        self.add_sublayer("2", activation())
        self.add_sublayer("3", nn.Conv2D(channels * MLP_RATIO, channels, 1, bias_attr=False))

    def forward(self, x: Tensor) -> Tensor:
        """`x: (N, channels, H, W)` → the same shape."""
        activation, project = self._sub_layers["2"], self._sub_layers["3"]
        if self.by_onednn(x):
            operation, parameters = self.operation()
            return operation(x, *parameters)
        if is_plain(activation, nn.ReLU):
            return run_conv(project, self.convolve(x, activate=True))
        return run_conv(project, activation(as_float32(self.convolve(x))))

    def operation(self) -> tuple[ExpandProject, list[Tensor]]:
        """All of it in train mode, and the parameters that it is called with."""
        conv, norm, activation, project = (self._sub_layers[name] for name in "0123")
        operation = ExpandProject(norm, _ACTIVATIONS[type(activation)])
        return operation, [conv.weight, norm.weight, norm.bias, project.weight]

    def by_onednn(self, x: Tensor) -> bool:
        """Whether `operation` computes such a map: the layers are as they were built, and nobody watches them."""
        if self.is_repped or not self.training:
            return False
        conv, norm, activation, project = (self._sub_layers[name] for name in "0123")
        plain = all(plain_geometry(layer) == Geometry() and layer.bias is None for layer in (conv, project))
        plain = plain and is_plain_norm(norm, True) and any(is_plain(activation, kind) for kind in _ACTIVATIONS)
        if not plain or not can_convolve(x, conv.weight, Geometry(), training=True):
            return False
        batch, _, height, width = x.shape
        if batch * height * width == 1:
            return False  # the normalisation would see one value a channel: see `branch_sum`
        hidden = (batch, conv.weight.shape[0], height, width)
        return usable(norm.weight, norm.bias, project.weight, training=True, maps=0) and is_supported(
            hidden, tuple(project.weight.shape), Geometry()
        )


class FasterNetBlock(nn.Layer):
    """`x + drop_path(mlp(partial_conv(x)))`."""

    def __init__(self, channels: int, activation: type[nn.Layer], drop_path: float, fused: bool) -> None:
        super().__init__()
        self.drop_path = DropPath(drop_path)
        self.mlp = MLP(channels, activation, fused)
        self.spatial_mixing = PartialConv(channels, channels // PARTIAL)

    def forward(self, x: Tensor) -> Tensor:
        """`x: (N, channels, H, W)` → the same shape."""
        mixing, mlp, drop_path = self.spatial_mixing, self.mlp, self.drop_path
        plain = is_plain(mixing, PartialConv) and is_plain(mlp, MLP) and is_plain(drop_path, DropPath)
        if plain and mixing.by_onednn(x) and mlp.by_onednn(x):
            operation, parameters = mlp.operation()
            return MixedResidual(operation, drop_path.draw(x))(x, mixing.partial_conv3.weight, *parameters)
        residual = mlp(mixing(x))
        return add(x, drop_path(residual), self.training)


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
        class_num: classes of the head; 0 for no classifier.
        fused: build the form without batch normalisation directly.
        features_only: no head; the model returns the list of the four stages' maps.
        fork_feat: `features_only` as the official code has it for dense prediction: each map goes through its own
            batch normalisation (`norm0`, `norm2`, `norm4`, `norm6`), which stays when the model is fused.
        in_channels: channels of the images.
        **kwargs: see `Backbone.set_outputs`.
    """

    stem = "patch_embed"
    stages_pattern = ("stages[0]", "stages[2]", "stages[4]", "stages[6]")
    classifier = "head"
    head_layers = ("avgpool_pre_head",)
    dense = {"fork_feat": True}
    num_features = HEAD_CHANNELS
    timm_names = (
        (r"^stages\.(\d)\.blocks\.", lambda match: f"stages.{2 * int(match[1])}.blocks."),
        (r"^stages\.(\d)\.downsample\.", lambda match: f"stages.{2 * int(match[1]) - 1}."),
        (r"^conv_head\.", "avgpool_pre_head.1."),
        (r"^classifier\.", "head."),
    )

    def __init__(
        self,
        variant: Variant,
        class_num: int = 1000,
        fused: bool = False,
        features_only: bool = False,
        fork_feat: bool = False,
        in_channels: int = 3,
        **kwargs: Any,
    ) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.channels = tuple(variant.channels * 2**index for index in range(len(variant.depths)))
        rates = paddle.linspace(0, variant.drop_path, sum(variant.depths)).tolist()
        self.patch_embed = ConvNorm(in_channels, variant.channels, 4, 4, ("proj", "norm"), fused)
        stages = []
        for index, (channels, depth) in enumerate(zip(self.channels, variant.depths)):
            if index:
                stages.append(ConvNorm(channels // 2, channels, 2, 2, ("reduction", "norm"), fused))
            blocks = [FasterNetBlock(channels, variant.activation, rates.pop(0), fused) for _ in range(depth)]
            stages.append(Stage(blocks))
        self.stages = nn.Sequential(*stages)
        self.fork_feat = fork_feat
        self.leave_out_head(class_num, features_only or fork_feat)
        if fork_feat:
            for index, channels in enumerate(self.channels):
                self.add_sublayer(f"norm{2 * index}", nn.BatchNorm2D(channels))
            self.may_lack = ("norm",)
        if not self.features_only:
            self._add_head(variant.activation)
        for layer in self.sublayers():
            if isinstance(layer, (nn.Conv2D, nn.Linear)):
                nn.initializer.TruncatedNormal(std=0.02)(layer.weight)
        self.set_outputs(**kwargs)

    def _add_head(self, activation: type[nn.Layer]) -> None:
        self.avgpool_pre_head = nn.Sequential(
            nn.AdaptiveAvgPool2D(1),
            nn.Conv2D(self.channels[-1], self.num_features, 1, bias_attr=False),
            activation(),
        )
        self.flatten = nn.Flatten()
        if self.class_num:
            self.head = nn.Linear(self.num_features, self.class_num)

    def parts(self) -> list[list[nn.Layer]]:
        """See `Backbone.parts`."""
        stages = list(self.stages)
        return [[self.patch_embed], stages[:1], *(stages[index : index + 2] for index in (1, 3, 5))]

    def features(self, x: Tensor, stem: bool = False) -> list[Tensor]:
        """See `Backbone.features`; with `fork_feat` each map through its normalisation."""
        maps = super().features(x, stem)
        if not self.fork_feat:
            return maps
        return [self._sub_layers[f"norm{2 * index}"](map_) for index, map_ in enumerate(maps)]

    def forward_features(self, x: Tensor) -> Tensor:
        """See `Backbone.forward_features`."""
        with self.maps_between_layers():
            x = self.stages(self.patch_embed(x))
        return as_float32(x)

    def forward_head(self, x: Tensor) -> Tensor:
        """See `Backbone.forward_head`."""
        x = self.flatten(self.avgpool_pre_head(x))
        return self.head(x) if self.class_num else x


FACTORIES = make_factories(FasterNet, VARIANTS)
globals().update(FACTORIES)
