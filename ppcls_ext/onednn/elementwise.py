"""Activations and sums of maps, by oneDNN where it can be used and by Paddle otherwise."""

from __future__ import annotations

from typing import Any

import paddle
from paddle import Tensor, nn

from ppcls_ext.onednn import builders, operations
from ppcls_ext.onednn.maps import Operation, elementwise, from_channels_last, is_channels_last, to_channels_last, usable


def relu(x: Tensor, training: bool) -> Tensor:
    """`x: (N, C, H, W)` → the same shape; `training`: see `usable`."""
    if is_channels_last(x) and usable(x, training=training):
        return _Activation(builders.RELU)(x)
    return elementwise(nn.functional.relu, x)


def gelu(x: Tensor, training: bool) -> Tensor:
    """As `relu`, for the exact GELU."""
    if is_channels_last(x) and usable(x, training=training):
        return _Activation(builders.GELU)(x)
    return elementwise(nn.functional.gelu, x)


def is_plain(layer: nn.Layer, kind: type[nn.Layer]) -> bool:
    """Whether a layer is exactly of that class and nobody watches what goes in and out."""
    return type(layer) is kind and not layer._forward_pre_hooks and not layer._forward_post_hooks


def add(x: Tensor, other: Tensor, training: bool) -> Tensor:
    """The sum of two maps (N, C, H, W); `training`: see `usable`."""
    if (
        is_channels_last(x)
        and is_channels_last(other)
        and usable(x, other, training=training, maps=2)
        and x.shape == other.shape
    ):
        return _Add()(x, other)
    return elementwise(paddle.add, x, other)


class _Activation(Operation):
    mixes = False

    def __init__(self, algorithm: int) -> None:
        self.algorithm = algorithm

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        rows = to_channels_last(x)
        y = operations.activate(rows, self.algorithm)
        return y, [y if self.algorithm == builders.RELU else rows]

    def backward(self, grad: Tensor, inputs: list[Tensor], saved: list[Tensor], needed: list[bool]) -> list[Any]:
        return [from_channels_last(operations.activate_gradient(saved[0], grad, self.algorithm))]


class _Add(Operation):
    maps, mixes = 2, False

    def forward(self, x: Tensor, other: Tensor) -> tuple[Tensor, list[Tensor]]:
        return operations.weighted_sum(to_channels_last(x), [to_channels_last(other)]), []

    def backward(self, grad: Tensor, inputs: list[Tensor], saved: list[Tensor], needed: list[bool]) -> list[Any]:
        return [from_channels_last(grad)] * 2
