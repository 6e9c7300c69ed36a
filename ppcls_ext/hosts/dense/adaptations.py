"""Changes to Paddle that both PaddleDetection and PaddleSeg need on today's NumPy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import paddle

from ppcls_ext.hosts.adaptation import Adaptation, patch, raises


def _tensors_are_no_scalars() -> bool:
    return raises(TypeError, int, paddle.ones([1]))


def _scalars_of_tensors() -> None:
    # int() of a tensor is NumPy's int() of an array, an error for a 1-element array from NumPy 2.4 on
    for name in ("__int__", "__long__", "__float__", "__index__"):
        patch(paddle.Tensor, name, _of_0_d(getattr(paddle.Tensor, name)))


def _of_0_d(method: Callable[[paddle.Tensor], Any]) -> Callable[[paddle.Tensor], Any]:
    return lambda tensor: method(tensor.reshape([]) if tensor.ndim and tensor.size == 1 else tensor)


SCALARS = Adaptation(
    "scalars of tensors", "paddle/base/dygraph/math_op_patch.py, _int_", _tensors_are_no_scalars, _scalars_of_tensors
)
