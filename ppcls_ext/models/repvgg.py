"""RepVGG: making VGG-style convolutional networks great again.

Paper: arXiv 2101.03697. Official code: github.com/DingXiaoH/RepVGG (`repvgg.py`, commit eae7c52), MIT licence.

Differs from the official code, and from PaddleClas's `RepVGG`, in:
- squeeze-and-excitation (D2se) stays in the fused form;
- fusion happens in float64 and leaves no branch behind;
- the training form computes the branches together (`ppcls_ext.layers`), to the same result;
- convolutions start from Paddle's default initialisation (He normal), not PyTorch's; the classifier from N(0, 0.01²);
- batch normalisation keeps Paddle's biased running variance.
State-dict names are those of PaddleClas 2.6, whose published weights load unchanged.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import paddle
from paddle import Tensor, nn

from ppcls_ext.layers.rep_blocks import RepVGGBlock
from ppcls_ext.models.factory import make_factories
from ppcls_ext.models.vgg_like import VggLike, timm_names


class Variant(NamedTuple):
    """Blocks and width multipliers of the four stages, groups of every second layer, and SE (paper, tables 2 and 3)."""

    depths: tuple[int, int, int, int]
    widths: tuple[float, float, float, float]
    groups: int = 1
    use_se: bool = False


A, B, D = (2, 4, 14, 1), (4, 6, 16, 1), (8, 14, 24, 1)
VARIANTS = {
    "RepVGG_A0": Variant(A, (0.75, 0.75, 0.75, 2.5)),
    "RepVGG_A1": Variant(A, (1, 1, 1, 2.5)),
    "RepVGG_A2": Variant(A, (1.5, 1.5, 1.5, 2.75)),
    "RepVGG_B0": Variant(B, (1, 1, 1, 2.5)),
    "RepVGG_B1": Variant(B, (2, 2, 2, 4)),
    "RepVGG_B1g2": Variant(B, (2, 2, 2, 4), groups=2),
    "RepVGG_B1g4": Variant(B, (2, 2, 2, 4), groups=4),
    "RepVGG_B2": Variant(B, (2.5, 2.5, 2.5, 5)),
    "RepVGG_B2g2": Variant(B, (2.5, 2.5, 2.5, 5), groups=2),
    "RepVGG_B2g4": Variant(B, (2.5, 2.5, 2.5, 5), groups=4),
    "RepVGG_B3": Variant(B, (3, 3, 3, 5)),
    "RepVGG_B3g2": Variant(B, (3, 3, 3, 5), groups=2),
    "RepVGG_B3g4": Variant(B, (3, 3, 3, 5), groups=4),
    "RepVGG_D2se": Variant(D, (2.5, 2.5, 2.5, 5), use_se=True),
}

GROUPED_LAYERS = range(2, 27, 2)  # counted from the stem, which is layer 0
NAMES = RepVGGBlock.names


def custom_l2(model: nn.Layer) -> Tensor:
    """RepVGG's L2 penalty, which decays what the fused kernels will be instead of what the branches hold.

    Per block: the plain L2 norm of the 3×3 kernel's ring plus that of the equivalent centre, `K3c·t3 + K1·t1`, divided
    by `t3² + t1²`, where `t = γ/σ` takes no part in the gradient (official `repvgg.py`, `get_custom_L2`). Multiply by
    half the weight decay, add to the loss, and exclude these kernels from the optimizer's own decay.

    Args:
        model: unfused.

    Returns:
        A scalar; 0 where no block is left unfused.
    """
    blocks = [layer for layer in model.sublayers(include_self=True) if isinstance(layer, RepVGGBlock)]
    penalties = [block.custom_l2() for block in blocks if not block.is_repped]
    return sum(penalties[1:], penalties[0]) if penalties else paddle.zeros([])


class RepVGG(VggLike):
    """Stem, four stages of `RepVGGBlock`s, each starting with stride 2, global pooling, linear classifier.

    Args:
        variant: a row of `VARIANTS`.
        class_num: classes of the head; 0 for no classifier.
        fused: build the one-convolution form directly.
        features_only: no head; the model returns the list of the four stages' maps.
        in_channels: channels of the images.
        **kwargs: see `Backbone.set_outputs`.
    """

    timm_names = timm_names(
        [
            ("conv_kxk", NAMES.conv),
            ("conv_1x1", NAMES.scale),
            ("identity", NAMES.identity),
            ("reparam_conv", NAMES.fused),
        ],
        RepVGGBlock.se_names,
    )

    def __init__(
        self,
        variant: Variant,
        class_num: int = 1000,
        fused: bool = False,
        features_only: bool = False,
        in_channels: int = 3,
        **kwargs: Any,
    ) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.set_widths(variant.widths)
        channels = self.stem_channels
        options: dict[str, Any] = {"use_se": variant.use_se, "fused": fused}
        self.stage0 = RepVGGBlock(in_channels, channels, stride=2, **options)
        layer = 1
        for index, depth in enumerate(variant.depths):
            out_channels = self.channels[index]
            blocks = []
            for block in range(depth):
                groups = variant.groups if layer in GROUPED_LAYERS else 1
                blocks.append(RepVGGBlock(channels, out_channels, 3, 1 if block else 2, groups, **options))
                channels = out_channels
                layer += 1
            self.add_sublayer(f"stage{index + 1}", nn.Sequential(*blocks))
        self.add_head(class_num, features_only)
        self.set_outputs(**kwargs)


FACTORIES = make_factories(RepVGG, VARIANTS)
globals().update(FACTORIES)
