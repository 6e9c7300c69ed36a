"""The equivalent convolution of branches whose normalisations are frozen: kept between calls, and differentiated.

In eval mode, or with frozen batch normalisations, a sum of branches is one convolution. For a single image, folding its
kernel takes longer than the convolution, so the kernel is kept for as long as everything that it was folded from is
unchanged. Optimizers, `set_value` and others write to a parameter's memory without a trace in the tensor
(`inplace_version`), so the contents are compared, which is right after every kind of change.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import paddle
from paddle import Tensor

from ppcls_ext.onednn import operations
from ppcls_ext.onednn.builders import Geometry
from ppcls_ext.onednn.maps import Operation, from_channels_last, is_bfloat16, to_channels_last
from ppcls_ext.onednn.statistics import channel_sums
from ppcls_ext.reparam.algebra import Branch, fold_branches

_compare = ctypes.CDLL("msvcrt" if sys.platform == "win32" else None).memcmp
_compare.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t]


def parameters_of(branches: Sequence[Branch]) -> list[Tensor]:
    """Kernel, γ and β of each branch; γ and β alone of an identity."""
    return [
        value
        for kernel, norm in branches
        for value in ((norm.weight, norm.bias) if kernel is None else (kernel, norm.weight, norm.bias))
    ]


class Folded:
    """Kernel and bias, float32, of the one convolution, and a copy of the contents that they were folded from.

    Attributes:
        kernel: (out, in / groups, k, k).
        bias: (out,).
    """

    @staticmethod
    def can_be_kept(x: Tensor, branches: Sequence[Branch]) -> bool:
        """Whether all parameters and statistics are float32 on the CPU, whose memory can be compared, as the map is."""
        values = [
            *([] if is_bfloat16(x) else [x]),
            *parameters_of(branches),
            *(value for _, norm in branches for value in (norm._mean, norm._variance)),
        ]
        return all(value.dtype == paddle.float32 and value.place.is_cpu_place() for value in values)

    @classmethod
    def of(cls, branches: Sequence[Branch], groups: int, size: int, kept: Folded | None) -> Folded:
        """Returns `kept` if it was folded from what `branches` hold now, else a new one; see `fold_branches`."""
        sources = [value.contiguous() for value in parameters_of(branches)]
        sources += [value.contiguous() for _, norm in branches for value in (norm._mean, norm._variance)]
        description = [(tuple(value.shape), value.dtype) for value in sources]
        description += [norm._epsilon for _, norm in branches]
        if kept is None or not kept._is_of(description, sources):
            kept = cls(branches, groups, size, description, sources)
        return kept

    @paddle.no_grad()
    def __init__(
        self, branches: Sequence[Branch], groups: int, size: int, description: list, sources: list[Tensor]
    ) -> None:
        self._description = description
        self._copies = [value.numpy() for value in sources]  # before folding: a change in between is seen next time
        self.kernel, self.bias = (value.astype("float32") for value in fold_branches(list(branches), groups, size))

    def _is_of(self, description: list, sources: list[Tensor]) -> bool:
        return self._description == description and not any(
            _compare(value.data_ptr(), copy.ctypes.data, copy.nbytes) for value, copy in zip(sources, self._copies)
        )


class FoldedConvolution(Operation):
    """The equivalent convolution with the gradients of what it was folded from; called with x and `parameters_of`.

    Args:
        branches: that were folded; their running statistics are constants.
        folded: their equivalent convolution.
        geometry: the convolution's.
    """

    def __init__(self, branches: Sequence[Branch], folded: Folded, geometry: Geometry) -> None:
        self.branches, self.folded, self.geometry = branches, folded, geometry

    def forward(self, x: Tensor, *parameters: Tensor) -> tuple[Tensor, list[Tensor]]:
        """See `Operation.forward`."""
        rows = to_channels_last(x)
        y = operations.convolve(rows, self.folded.kernel, self.folded.bias, self.geometry)
        # the statistics may move before the gradient is asked for
        moments = [value.clone() for _, norm in self.branches for value in (norm._mean, norm._variance)]
        return y, [rows, self.folded.kernel, *moments]

    def backward(self, grad: Tensor, inputs: list[Tensor], saved: list[Tensor], needed: list[bool]) -> list[Any]:
        """See `Operation.backward`."""
        rows, kernel, *moments = saved
        x_grad = None
        if needed[0]:
            x_grad = from_channels_last(operations.input_gradient(grad, kernel, rows.shape, self.geometry))
        kernel_grad = operations.kernel_gradient(rows, grad, kernel.shape, self.geometry)
        return [x_grad, *self._of_branches(kernel_grad, channel_sums(grad), inputs[1:], moments)]

    def _of_branches(
        self, kernel_grad: Tensor, bias_grad: Tensor, parameters: list[Tensor], moments: list[Tensor]
    ) -> list[Tensor]:
        """Gradients of all parameters, from those of the equivalent kernel (out, in / groups, k, k) and bias (out,)."""
        grads: list[Tensor] = []
        values, outputs, per_group = iter(parameters), kernel_grad.shape[0], kernel_grad.shape[1]
        for number, (branch_kernel, norm) in enumerate(self.branches):
            mean, variance = moments[2 * number : 2 * number + 2]
            inverse = paddle.rsqrt(variance + norm._epsilon)
            if branch_kernel is None:
                gamma, _ = next(values), next(values)
                centre = kernel_grad.shape[2] // 2
                # output i reads channel i mod (in / groups) of its group, at the centre
                numbers = kernel_grad[:, :, centre, centre].flatten()
                along = numbers.gather(paddle.to_tensor(_places(outputs, per_group)))
            else:
                branch_kernel, gamma, _ = next(values), next(values), next(values)
                margin, size = (kernel_grad.shape[2] - branch_kernel.shape[2]) // 2, branch_kernel.shape[2]
                part = kernel_grad[:, :, margin : margin + size, margin : margin + size] if margin else kernel_grad
                along = (part * branch_kernel).flatten(1).sum(1)
                grads.append(part * (gamma * inverse).reshape([-1, 1, 1, 1]))
            grads += [(along - mean * bias_grad) * inverse, bias_grad]
        return grads


def _places(outputs: int, per_group: int) -> np.ndarray:
    """In a matrix (outputs, channels of a group), flattened: where each output's own channel stands."""
    return np.arange(outputs) * per_group + np.arange(outputs) % per_group
