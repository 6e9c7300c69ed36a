"""What every re-parameterizable layer has in common: it becomes one convolution."""

from __future__ import annotations

import paddle
from paddle import Tensor, nn

from ppcls_ext.errors import PpclsExtError
from ppcls_ext.onednn.builders import Geometry
from ppcls_ext.onednn.convolution import can_convolve, conv2d, run_conv
from ppcls_ext.onednn.maps import as_float32, is_traced, learns
from ppcls_ext.reparam.algebra import Branch, fold_branches
from ppcls_ext.reparam.folded import Folded, FoldedConvolution, parameters_of

_OF_A_CONV = ("stride", "padding", "dilation", "number of groups", "padding mode")
_OF_A_NORM = ("_mean", "_variance", "_epsilon", "weight", "bias")


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
        dilation: of the fused convolution and of every branch, px.
    """

    branch_names: tuple[str, ...]
    fused_name: str
    #: Whether an unfused layer computes one operation per branch, in eval mode too: the definition that faster ways are
    #: compared with.
    by_definition = False

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        padding: int = 0,
        groups: int = 1,
        dilation: int = 1,
    ) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.kernel_size = kernel_size
        self.stride = stride
        self.padding = padding
        self.groups = groups
        self.dilation = dilation
        self.is_repped = False
        self._folded: Folded | None = None

    def branch_parts(self) -> list[tuple[nn.Layer | None, nn.Layer]]:
        """Convolution, None for the identity, and normalisation of each branch that is summed; none once fused."""
        raise NotImplementedError

    def branches(self) -> list[Branch]:
        """The branches that are summed; none once fused."""
        return [Branch(None if conv is None else conv.weight, norm) for conv, norm in self.branch_parts()]

    def fault(self) -> str | None:
        """Returns what keeps one convolution from computing the same, such as a layer put in another's place."""
        for conv, norm in () if self.is_repped else self.branch_parts():
            if any(getattr(norm, name, None) is None for name in _OF_A_NORM):
                return f"{type(norm).__name__} stands where a BatchNorm2D with weight and bias is expected"
            fault = None if conv is None else self._fault_of(conv)
            if fault is not None:
                return fault
        return None

    def _fault_of(self, conv: nn.Layer) -> str | None:
        if not isinstance(conv, nn.Conv2D):
            return f"{type(conv).__name__} stands where a Conv2D is expected"
        if conv.bias is not None:
            return "a convolution has a bias"
        height, width = conv.weight.shape[2:]
        if height != width or height > self.kernel_size or (self.kernel_size - height) % 2:
            return f"a kernel of {height}×{width} does not fit into one of {self.kernel_size}×{self.kernel_size}"
        padding = conv._padding
        if isinstance(padding, (list, tuple)) and len(set(padding)) == 1:
            padding = padding[0]
        found = (conv._stride, padding, conv._dilation, conv._groups, conv._padding_mode)
        expected = ([self.stride] * 2, self.padding_of(height), [self.dilation] * 2, self.groups, "zeros")
        differing = [name for name, value, wanted in zip(_OF_A_CONV, found, expected) if value != wanted]
        return f"a convolution has another {differing[0]} than it was built with" if differing else None

    def padding_of(self, kernel_size: int) -> int:
        """Padding, px, with which a branch's kernel stands around the same pixels as the fused one."""
        return self.padding - self.dilation * ((self.kernel_size - kernel_size) // 2)

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
        y = None if is_traced() or self.dilation != 1 else self._run_kept(x)
        if y is None:
            x = as_float32(x)
            kernel, bias = (value.astype(x.dtype) for value in self.equivalent_kernel())
            if self.dilation != 1:
                return nn.functional.conv2d(x, kernel, bias, self.stride, self.padding, self.dilation, self.groups)
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
            self.in_channels,
            self.out_channels,
            self.kernel_size,
            self.stride,
            self.padding,
            self.dilation,
            groups=self.groups,
        )
        setattr(self, self.fused_name, conv)
        self._folded = None
        self.is_repped = True

    @paddle.no_grad()
    def re_parameterize(self) -> None:
        """Fuses all branches into one convolution, in place; a second call does nothing.

        No branch, batch normalisation or temporary is left. Parameters keep their type and place, and stay frozen where
        all of the branches' are.

        Raises:
            PpclsExtError: something was put in a layer's place that one convolution cannot compute.
        """
        if self.is_repped:
            return
        if fault := self.fault():
            raise PpclsExtError(f"a {type(self).__name__} cannot be fused: {fault}")
        kernel, bias = self.equivalent_kernel()
        norm = self.branches()[0].norm
        dtype, training = norm.weight.dtype, self.training
        frozen = all(value.stop_gradient for value in parameters_of(self.branches()))
        self.start_fused()
        conv = self.fused_conv
        conv.to(dtype=dtype)
        conv.weight.set_value(kernel.astype(dtype))
        conv.bias.set_value(bias.astype(dtype))
        conv.training = training
        for parameter in conv.parameters():
            parameter.stop_gradient = frozen

    def rep(self) -> None:
        """The name of `re_parameterize` in PaddleClas 2.4."""
        self.re_parameterize()
