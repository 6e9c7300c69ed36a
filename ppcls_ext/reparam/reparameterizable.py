"""What every re-parameterizable layer has in common: it becomes one convolution."""

from __future__ import annotations

import paddle
from paddle import Tensor, nn

from ppcls_ext.onednn.builders import Geometry
from ppcls_ext.onednn.convolution import can_convolve, conv2d, run_conv
from ppcls_ext.onednn.maps import is_traced, learns
from ppcls_ext.reparam.algebra import Branch, fold_branches
from ppcls_ext.reparam.folded import Folded, FoldedConvolution, parameters_of


class Reparameterizable(nn.Layer):
    """A layer that is a sum of conv-BN branches while training and one convolution once fused.

    Subclasses say what their branches are (`branches`), which sublayers hold them (`branch_names`) and under which name
    the fused convolution stands (`fused_name`). `re_parameterize` (PaddleClas ≥ 2.5), its alias `rep` (PaddleClas 2.4)
    and `is_repped` are the names that PaddleClas's export looks for.

    Args:
        in_channels: channels read.
        out_channels: channels written.
        kernel_size: of the fused convolution, px.
        stride: px.
        padding: px on each side.
        groups: of the fused convolution and of every branch.
    """

    branch_names: tuple[str, ...]
    fused_name: str
    #: Whether an unfused layer computes one operation per branch, in eval mode too: the definition that faster ways are
    #: compared with.
    by_definition = False

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int, stride: int = 1, padding: int = 0, groups: int = 1
    ) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.kernel_size = kernel_size
        self.stride = stride
        self.padding = padding
        self.groups = groups
        self.is_repped = False
        self._folded: Folded | None = None

    def branches(self) -> list[Branch]:
        """The branches that are summed; none once fused."""
        raise NotImplementedError

    def equivalent_kernel(self) -> tuple[Tensor, Tensor]:
        """Kernel (out, in / groups, k, k) and bias (out,), float64, of the fused convolution."""
        if self.is_repped:
            fused = self.fused_conv
            return fused.weight.astype("float64"), fused.bias.astype("float64")
        return fold_branches(self.branches(), self.groups, self.kernel_size)

    @property
    def fused_conv(self) -> nn.Conv2D:
        """The one convolution that is left once fused."""
        return getattr(self, self.fused_name)

    def run_fused(self, x: Tensor) -> Tensor:
        """Applies the equivalent convolution to `x: (N, in_channels, H, W)`.

        An unfused layer keeps kernel and bias from call to call for as long as no parameter and no running statistic
        changes. The branches' parameters get their gradients, as with frozen batch normalisations.
        """
        if self.is_repped:
            return run_conv(self.fused_conv, x)
        y = None if is_traced() else self._run_kept(x)
        if y is None:
            kernel, bias = (value.astype(x.dtype) for value in self.equivalent_kernel())
            y = conv2d(x, kernel, bias, self.stride, self.padding, self.groups)
        return y

    def _run_kept(self, x: Tensor) -> Tensor | None:
        """See `run_fused`; None where kernel and bias cannot be kept, or oneDNN does not compute the gradients."""
        branches = self.branches()
        if not Folded.can_be_kept(x, branches):
            return None
        self._folded = folded = Folded.of(branches, self.groups, self.kernel_size, self._folded)
        geometry, parameters = Geometry(self.stride, self.padding, self.groups), parameters_of(branches)
        if not learns(*parameters):
            return conv2d(x, folded.kernel, folded.bias, *geometry)
        if can_convolve(x, folded.kernel, geometry, training=True):
            return FoldedConvolution(branches, folded, geometry)(x, *parameters)
        return None

    def drop_folded(self) -> None:
        """Frees the kernel that `run_fused` keeps, which training has no use for."""
        if self._folded is not None:
            self._folded = None

    def start_fused(self) -> None:
        """Puts a fresh convolution in the branches' place (`fused=True` models start this way)."""
        for name in self.branch_names:
            if name in self._sub_layers:
                delattr(self, name)
        conv = nn.Conv2D(
            self.in_channels, self.out_channels, self.kernel_size, self.stride, self.padding, groups=self.groups
        )
        setattr(self, self.fused_name, conv)
        self._folded = None
        self.is_repped = True

    @paddle.no_grad()
    def re_parameterize(self) -> None:
        """Fuses all branches into one convolution, in place; a second call does nothing.

        No branch, batch normalisation or temporary is left. Parameters keep their type and place.
        """
        if self.is_repped:
            return
        kernel, bias = self.equivalent_kernel()
        norm = self.branches()[0].norm
        dtype, training = norm.weight.dtype, self.training
        self.start_fused()
        conv = self.fused_conv
        conv.to(dtype=dtype)
        conv.weight.set_value(kernel.astype(dtype))
        conv.bias.set_value(bias.astype(dtype))
        conv.training = training

    def rep(self) -> None:
        """The name of `re_parameterize` in PaddleClas 2.4."""
        self.re_parameterize()
