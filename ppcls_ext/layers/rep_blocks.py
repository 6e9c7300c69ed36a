"""The blocks of MobileOne and RepVGG: a sum of branches, squeeze-and-excitation where used, an activation."""

from __future__ import annotations

from collections.abc import Callable

import paddle
from paddle import Tensor, nn

from ppcls_ext.errors import PpclsExtError
from ppcls_ext.layers.rep_conv import BranchNames, RepConv
from ppcls_ext.layers.squeeze_excite import SqueezeExcite
from ppcls_ext.onednn.elementwise import relu
from ppcls_ext.onednn.maps import as_float32

#: A class of layers, or anything else that makes a layer when it is called without arguments; None for no activation.
Activation = Callable[[], nn.Layer]


class VggBlock(RepConv):
    """Sum of branches → squeeze-and-excitation where used → activation; subclasses say the names and call `add_se`."""

    #: Names of SE's two convolutions in the state dict.
    se_names: tuple[str, str]

    def add_se(self, use_se: bool, activation: Activation | None = nn.ReLU) -> None:
        """Puts behind the sum what follows it; subclasses call it once.

        Args:
            use_se: whether squeeze-and-excitation follows, with a 16th of the channels inside.
            activation: makes the layer that comes last.

        Raises:
            PpclsExtError: `activation` makes no layer.
        """
        squeezed = max(1, self.out_channels // 16)
        self.se = SqueezeExcite(self.out_channels, squeezed, self.se_names) if use_se else None
        #: ReLU is no layer of its own: as part of the sum it costs less.
        self.has_relu = activation is nn.ReLU
        self.activation = None if activation is None or self.has_relu else _make(activation)

    def forward(self, x: Tensor, activate: bool = True) -> Tensor:
        """`x: (N, in_channels, H, W)` → (N, out_channels, ⌈H / stride⌉, ⌈W / stride⌉); `activate`: do so at the end."""
        with_relu = activate and self.has_relu
        if self.se is None:
            y = self.convolve(x, with_relu)
        else:
            y = self.se(self.convolve(x))
            y = relu(y, self.training) if with_relu else y
        return self.activation(as_float32(y)) if activate and self.activation is not None else y


def _make(activation: Activation) -> nn.Layer:
    made = activation() if callable(activation) and not isinstance(activation, nn.Layer) else None
    if not isinstance(made, nn.Layer):
        raise PpclsExtError(
            f"activation is {activation!r}: expected a class of layers such as paddle.nn.SiLU, a function that makes "
            "one, or None"
        )
    return made


class MobileOneBlock(VggBlock):
    """k conv-BN branches + a 1×1 conv-BN branch + a BN identity branch → SE where used → activation.

    The 1×1 branch exists where the kernel is larger than that, the identity where input and output have one shape.
    MobileOne (arXiv 2206.04040) puts a depthwise block (3×3, `groups=in_channels`) before a pointwise one (1×1).

    Args:
        in_channels: channels read.
        out_channels: channels written.
        kernel_size: odd, px; padded so that stride 1 keeps the map's size.
        stride: px.
        groups: of every branch; divides both numbers of channels.
        conv_branches: k; the paper has 4 in its smallest variant and 1 in the others.
        use_se: whether squeeze-and-excitation follows the sum, with a 16th of the channels inside.
        fused: start with the one fused convolution instead, for weights that are fused.
        dilation: of the branches' kernels, px; see `RepConv`.
        activation: makes the last layer: a class such as `paddle.nn.SiLU`, or None for none.

    Raises:
        PpclsExtError: an argument out of range.
    """

    names = BranchNames(conv="rbr_conv", scale="rbr_scale", identity="rbr_skip", fused="reparam_conv")
    se_names = ("reduce", "expand")

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 3,
        stride: int = 1,
        groups: int = 1,
        conv_branches: int = 1,
        use_se: bool = False,
        fused: bool = False,
        *,
        dilation: int = 1,
        activation: Activation | None = nn.ReLU,
    ) -> None:
        super().__init__(
            in_channels, out_channels, kernel_size, stride, groups, self.names, conv_branches, fused, dilation
        )
        self.add_se(use_se, activation)


class RepVGGBlock(VggBlock):
    """A conv-BN branch + a 1×1 conv-BN branch + a BN identity branch → SE where used → activation.

    Args and Raises: those of `MobileOneBlock`, without `conv_branches`. RepVGG (arXiv 2101.03697) has kernels of 3×3.
    """

    names = BranchNames(conv="rbr_dense", scale="rbr_1x1", identity="rbr_identity", fused="rbr_reparam")
    se_names = ("down", "up")

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 3,
        stride: int = 1,
        groups: int = 1,
        use_se: bool = False,
        fused: bool = False,
        *,
        dilation: int = 1,
        activation: Activation | None = nn.ReLU,
    ) -> None:
        super().__init__(
            in_channels, out_channels, kernel_size, stride, groups, self.names, fused=fused, dilation=dilation
        )
        self.add_se(use_se, activation)

    def custom_l2(self) -> Tensor:
        """The block's share of `ppcls_ext.models.repvgg.custom_l2`: a scalar."""
        (ring, norm_3), *others = [(conv.weight, norm) for conv, norm in self.branch_parts() if conv is not None]
        if not others:  # the kernel is 1×1
            return ring.square().sum()
        ((point, norm_1),) = others
        scale_3, scale_1 = (
            (norm.weight / paddle.sqrt(norm._variance + norm._epsilon)).reshape([-1, 1, 1, 1]).detach()
            for norm in (norm_3, norm_1)
        )
        middle = self.kernel_size // 2
        centre = ring[:, :, middle : middle + 1, middle : middle + 1]
        equivalent = centre * scale_3 + point * scale_1
        return (
            ring.square().sum()
            - centre.square().sum()
            + (equivalent.square() / (scale_3.square() + scale_1.square())).sum()
        )
