"""The branch-summing layer of MobileOne and RepVGG."""

from __future__ import annotations

from typing import NamedTuple

from paddle import Tensor, nn

from ppcls_ext.errors import PpclsExtError
from ppcls_ext.layers.branch_sum import branch_sum, is_plain_norm
from ppcls_ext.onednn.builders import Geometry
from ppcls_ext.onednn.convolution import plain_geometry
from ppcls_ext.onednn.elementwise import is_plain, relu
from ppcls_ext.onednn.maps import as_float32, is_channels_last
from ppcls_ext.reparam.reparameterizable import Reparameterizable


class BranchNames(NamedTuple):
    """Attribute names, hence state-dict names, of a family's branches and of its fused convolution."""

    conv: str
    scale: str
    identity: str
    fused: str


NAMES = BranchNames(conv="conv", scale="scale", identity="identity", fused="fused")


class ConvBN(nn.Layer):
    """A convolution without bias, then batch normalisation: one branch.

    Args:
        in_channels: channels read.
        out_channels: channels written.
        kernel_size: odd, px; padded so that stride 1 keeps the map's size.
        stride: px.
        groups: of the convolution.
        dilation: of the kernel, px.
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int, stride: int, groups: int, dilation: int = 1
    ) -> None:
        super().__init__()
        padding = dilation * (kernel_size // 2)
        self.conv = nn.Conv2D(
            in_channels, out_channels, kernel_size, stride, padding, dilation, groups=groups, bias_attr=False
        )
        self.bn = nn.BatchNorm2D(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """`x: (N, in_channels, H, W)` → (N, out_channels, H / stride, W / stride)."""
        return self.bn(self.conv(x))


def _require_geometry(kind: str, **numbers: int) -> None:
    """Raises PpclsExtError where a number cannot be what its name says."""
    for name, value in numbers.items():
        if type(value) is not int or value < 1 or (name == "kernel_size" and value % 2 == 0):
            expected = "an odd number" if name == "kernel_size" else "a whole number"
            raise PpclsExtError(f"{name} of {kind} is {value!r}: expected {expected} from 1")
    for name in ("in_channels", "out_channels"):
        if numbers[name] % numbers["groups"]:
            raise PpclsExtError(
                f"{name} of {kind} is {numbers[name]}: expected a multiple of groups, {numbers['groups']}"
            )


class RepConv(Reparameterizable):
    """The sum of k conv-BN branches, a 1×1 conv-BN scale branch and a BN identity branch; one convolution once fused.

    The scale branch exists where the kernel is larger than 1×1, the identity branch where input and output have one
    shape. In eval mode the layer runs the one equivalent convolution, fused or not. No activation follows the sum.

    Args:
        in_channels: channels read.
        out_channels: channels written.
        kernel_size: of the conv branches, odd, px; padded so that stride 1 keeps the map's size.
        stride: px.
        groups: of every branch; divides both numbers of channels.
        names: of the branches in the state dict.
        conv_branches: k, a list of branches `names.conv + ".0"`, …; None for a single one named `names.conv` itself.
        fused: start with the one fused convolution instead.
        dilation: of the conv branches' kernels, px; the branches are then summed one by one, until they are fused.

    Raises:
        PpclsExtError: an argument out of range.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 3,
        stride: int = 1,
        groups: int = 1,
        names: BranchNames = NAMES,
        conv_branches: int | None = None,
        fused: bool = False,
        dilation: int = 1,
    ) -> None:
        numbers = {"in_channels": in_channels, "out_channels": out_channels, "kernel_size": kernel_size}
        numbers |= {"stride": stride, "groups": groups, "dilation": dilation}
        _require_geometry(type(self).__name__, conv_branches=1 if conv_branches is None else conv_branches, **numbers)
        padding = dilation * (kernel_size // 2)
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, groups, dilation)
        self.branch_names = names[:3]
        self.fused_name = names.fused
        if fused:
            self.start_fused()
            return

        def conv_bn(size: int) -> ConvBN:
            return ConvBN(in_channels, out_channels, size, stride, groups, dilation)

        if conv_branches is None:
            conv = conv_bn(kernel_size)
        else:
            conv = nn.LayerList([conv_bn(kernel_size) for _ in range(conv_branches)])
        self.add_sublayer(names.conv, conv)
        if kernel_size > 1:
            self.add_sublayer(names.scale, conv_bn(1))
        if in_channels == out_channels and stride == 1:
            self.add_sublayer(names.identity, nn.BatchNorm2D(in_channels))

    def branch_layers(self) -> list[nn.Layer]:
        """The branches that exist, in the order conv…, scale, identity: `ConvBN`s and, last, a `BatchNorm2D`."""
        layers: list[nn.Layer] = []
        for name in self.branch_names:
            layer = self._sub_layers.get(name)
            layers.extend(layer if isinstance(layer, nn.LayerList) else [layer] if layer is not None else [])
        return layers

    def branch_parts(self) -> list[tuple[nn.Layer | None, nn.Layer]]:
        """See `Reparameterizable.branch_parts`."""
        layers = self.branch_layers()
        return [(layer.conv, layer.bn) if isinstance(layer, ConvBN) else (None, layer) for layer in layers]

    def forward(self, x: Tensor, activate: bool = False) -> Tensor:
        """`x: (N, in_channels, H, W)` → (N, out_channels, ⌈H / stride⌉, ⌈W / stride⌉); `activate`: through a ReLU."""
        return self.convolve(x, activate)

    def convolve(self, x: Tensor, activate: bool = False) -> Tensor:
        """As `forward`; with `activate` through a ReLU, which costs less as part of the sum."""
        y = None
        if self.by_definition and not self.is_repped:
            y = self.sum_of_branches(x)
        elif self.training and not self.is_repped and self._branches_are_as_built(training=True):
            self.drop_folded()
            geometry = Geometry(self.stride, self.padding, self.groups)
            y = branch_sum(x, self.branches(), geometry, activate)
            if y is not None:
                return y
        elif self.is_repped or self._branches_are_as_built(training=False):
            y = self.run_fused(x)
        if y is None:
            y = self.sum_of_branches(x)
        return relu(y, self.training) if activate else y

    def sum_of_branches(self, x: Tensor) -> Tensor:
        """The layer's definition, one operation per branch; `forward` computes the same faster."""
        x = as_float32(x)
        if is_channels_last(x):
            x = x.contiguous()  # once, not in every branch
        outputs = [layer(x) for layer in self.branch_layers()]
        return sum(outputs[1:], outputs[0])

    def _branches_are_as_built(self, training: bool) -> bool:
        """Whether the branches compute what their parameters say in that mode, so that they can be computed together.

        They do not where something was put in a layer's place (synchronised batch normalisation, quantisation, another
        convolution), hooks are to see a layer's input or output (weight normalisation), or a normalisation runs in
        another mode.
        """
        layers = self.branch_layers()
        convs = [layer for layer in layers if isinstance(layer, ConvBN)]
        norms = [layer.bn if isinstance(layer, ConvBN) else layer for layer in layers]
        return (
            all(is_plain_norm(norm, training) for norm in norms)
            and all(is_plain(layer, ConvBN) and self._is_as_built(layer.conv) for layer in convs)
            and all(norm._epsilon == norms[0]._epsilon for norm in norms)
        )

    def _is_as_built(self, conv: nn.Layer) -> bool:
        geometry = plain_geometry(conv)
        if geometry is None or conv.bias is not None:
            return False
        size = conv.weight.shape[2]
        return conv.weight.shape[3] == size <= self.kernel_size and geometry == (self.stride, size // 2, self.groups)
