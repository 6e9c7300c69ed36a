"""A convolution followed by its normalisation, which stand side by side in the parent's state dict."""

from __future__ import annotations

from paddle import Tensor, nn

from ppcls_ext.layers.branch_sum import branch_sum, is_plain_norm
from ppcls_ext.onednn.builders import Geometry
from ppcls_ext.onednn.convolution import plain_geometry, run_conv
from ppcls_ext.onednn.elementwise import relu
from ppcls_ext.onednn.maps import as_float32
from ppcls_ext.reparam.reparameterizable import Reparameterizable


class ConvNorm(Reparameterizable):
    """Convolution without bias → batch normalisation; the one-branch case of re-parameterization.

    Once fused, the convolution keeps its name and has a bias, and the normalisation is gone.

    Args:
        in_channels: channels read.
        out_channels: channels written.
        kernel_size: px; there is no padding.
        stride: px.
        names: of the convolution and the normalisation in the state dict.
        fused: start with the one fused convolution instead.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int,
        names: tuple[str, str],
        fused: bool = False,
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride)
        self.branch_names = names
        self.fused_name = names[0]
        if fused:
            self.start_fused()
            return
        self.add_sublayer(names[0], nn.Conv2D(in_channels, out_channels, kernel_size, stride, bias_attr=False))
        self.add_sublayer(names[1], nn.BatchNorm2D(out_channels))

    def branch_parts(self) -> list[tuple[nn.Layer | None, nn.Layer]]:
        """See `Reparameterizable.branch_parts`."""
        conv, norm = (self._sub_layers[name] for name in self.branch_names)
        return [(conv, norm)]

    def forward(self, x: Tensor) -> Tensor:
        """`x: (N, in_channels, H, W)` → (N, out_channels, H / stride, W / stride)."""
        return self.convolve(x)

    def convolve(self, x: Tensor, activate: bool = False) -> Tensor:
        """As `forward`; with `activate` through a ReLU, which costs less as part of the sum."""
        y = None
        if self.is_repped or self._is_as_built(training=False):
            y = self.run_fused(x)
        elif self.training and self._is_as_built(training=True):
            self.drop_folded()
            y = branch_sum(x, self.branches(), Geometry(self.stride, self.padding, self.groups), activate)
            if y is not None:
                return y
        if y is None:
            conv, norm = (self._sub_layers[name] for name in self.branch_names)
            y = norm(as_float32(run_conv(conv, x)))
        return relu(y, self.training) if activate else y

    def _is_as_built(self, training: bool) -> bool:
        """Whether both layers compute what their parameters say, the normalisation in that mode."""
        conv, norm = (self._sub_layers[name] for name in self.branch_names)
        geometry = Geometry(self.stride, self.padding, self.groups)
        plain = plain_geometry(conv) == geometry and conv.bias is None and not self.by_definition
        return plain and is_plain_norm(norm, training)
