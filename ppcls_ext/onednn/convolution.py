"""Convolution, by oneDNN where it can be used and by Paddle otherwise."""

from __future__ import annotations

import functools
from typing import Any

from paddle import Tensor, nn

from ppcls_ext.onednn import operations
from ppcls_ext.onednn.builders import Geometry
from ppcls_ext.onednn.maps import Operation, as_float32, from_channels_last, learns, to_channels_last, usable
from ppcls_ext.onednn.statistics import channel_sums


def conv2d(
    x: Tensor,
    kernel: Tensor,
    bias: Tensor | None = None,
    stride: int = 1,
    padding: int = 0,
    groups: int = 1,
    training: bool = False,
) -> Tensor:
    """As `paddle.nn.functional.conv2d`: `x: (N, C, H, W)`, `kernel: (O, C / groups, k, k)`, `bias: (O,)`.

    `training`: see `usable`.
    """
    geometry = Geometry(stride, padding, groups)
    if can_convolve(x, kernel, geometry, training) and (bias is None or usable(bias, training=training, maps=0)):
        return _Convolution(geometry)(*((x, kernel) if bias is None else (x, kernel, bias)))
    return nn.functional.conv2d(as_float32(x), kernel, bias, stride, padding, groups=groups)


def can_convolve(x: Tensor, kernel: Tensor, geometry: Geometry, training: bool, channels: int | None = None) -> bool:
    """Whether oneDNN computes the convolution, of all channels or the first ones, and its gradients."""
    if not usable(x, kernel, training=training) or x.ndim != 4:
        return False
    batch, all_channels, height, width = x.shape
    shape, pitch = (batch, channels or all_channels, height, width), all_channels if channels else 0
    return is_supported(shape, tuple(kernel.shape), geometry, pitch)


def run_conv(conv: nn.Layer, x: Tensor) -> Tensor:
    """`conv(x)`; by oneDNN where `conv` is a plain `Conv2D` and nobody watches what goes in and out.

    Quantisation and others put layers of their own in a convolution's place: these compute as they please.
    """
    geometry = plain_geometry(conv)
    if geometry is None:
        return conv(as_float32(x))
    return conv2d(x, conv.weight, conv.bias, *geometry, training=conv.training or learns(conv.weight))


def plain_geometry(conv: nn.Layer) -> Geometry | None:
    """Of a `Conv2D` as Paddle builds it, without hooks; None for anything else."""
    if type(conv) is not nn.Conv2D or conv._forward_pre_hooks or conv._forward_post_hooks:
        return None
    stride, dilation, padding = conv._stride, conv._dilation, conv._padding
    if not isinstance(padding, int) or stride[0] != stride[1] or dilation[0] != 1 or dilation[1] != 1:
        return None
    if conv._padding_mode != "zeros" or conv._data_format != "NCHW":
        return None
    return Geometry(stride[0], padding, conv._groups)


@functools.lru_cache(maxsize=4096)
def is_supported(shape: tuple[int, ...], kernel_shape: tuple[int, ...], geometry: Geometry, pitch: int = 0) -> bool:
    """Whether oneDNN computes the convolution of a map (N, C, H, W); `pitch`: channels of a map that it is part of."""
    batch, channels, height, width = shape
    size = kernel_shape[2]
    if kernel_shape[3] != size or channels != kernel_shape[1] * geometry.groups:
        return False
    if min(height, width) + 2 * geometry.padding < size:
        return False
    return operations.supports_convolution((batch, height, width, channels), kernel_shape, geometry, pitch)


class _Convolution(Operation):
    def __init__(self, geometry: Geometry) -> None:
        self.geometry = geometry

    def forward(self, x: Tensor, kernel: Tensor, bias: Tensor | None = None) -> tuple[Tensor, list[Tensor]]:
        rows = to_channels_last(x)
        return operations.convolve(rows, kernel, bias, self.geometry), [rows]

    def backward(self, grad: Tensor, inputs: list[Tensor], saved: list[Tensor], needed: list[bool]) -> list[Any]:
        (rows,), kernel = saved, inputs[1]
        grads: list[Any] = [None] * len(inputs)
        if needed[0]:
            grads[0] = from_channels_last(operations.input_gradient(grad, kernel, rows.shape, self.geometry))
        if needed[1]:
            grads[1] = operations.kernel_gradient(rows, grad, kernel.shape, self.geometry)
        if len(inputs) == 3 and needed[2]:
            grads[2] = channel_sums(grad)
        return grads
