"""Means, variances and covariances over the columns of a matrix, with gradients that cost as few products as possible.

Means are subtracted before anything is squared: a row whose mean is large beside its deviation keeps its digits.
"""

from __future__ import annotations

import functools
from typing import Any

import paddle
from paddle import Tensor
from paddle.autograd import PyLayer


def filled(shape: tuple[int, ...], value: float, like: Tensor) -> Tensor:
    """A constant tensor of the type and on the device of `like`; it is kept, and must not be changed."""
    return _filled(shape, value, like.dtype, str(like.place))


@functools.lru_cache(maxsize=128)
def _filled(shape: tuple[int, ...], value: float, dtype: paddle.dtype, place: str) -> Tensor:
    return paddle.full(shape, value, dtype)


def row_means(x: Tensor) -> Tensor:
    """(C, n) → (C, 1)."""
    # a product with ones is several times faster than Paddle's mean over the inner axis
    return paddle.matmul(x, filled((x.shape[1], 1), 1 / x.shape[1], x))


def add_to_rows(x: Tensor, column: Tensor) -> Tensor:
    """(C, n) + (C, 1)."""
    # again faster as a product than by broadcasting
    return paddle.addmm(x, column, filled((1, x.shape[1]), 1.0, x))


def centre(x: Tensor) -> Tensor:
    """(C, n) → the same without the rows' means."""
    return _Centre.apply(x)


def row_moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Means (C, 1) and covariance (C, C) of the rows of (C, n).

    The covariance's gradient has to be symmetric, as that of anything computed from variances is.
    """
    return _RowMoments.apply(x)


def variances(kernels: Tensor, covariance: Tensor) -> Tensor:
    """`diag(K Cov Kᵀ)`: kernels (…, rows, D), covariance (…, D, D) → (…, rows)."""
    return _Variances.apply(kernels, covariance)


def mean_squares(x: Tensor) -> Tensor:
    """(rows, n) → (rows,)."""
    return _MeanSquares.apply(x)


class _Centre(PyLayer):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return add_to_rows(x, -row_means(x))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return add_to_rows(grad, -row_means(grad))


class _RowMoments(PyLayer):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        means = row_means(x)
        centred = add_to_rows(x, -means)
        ctx.save_for_backward(centred)
        return means, paddle.matmul(centred, centred, transpose_y=True) / x.shape[1]

    @staticmethod
    def backward(ctx: Any, means_grad: Tensor, covariance_grad: Tensor) -> Tensor:
        (centred,) = ctx.saved_tensor()
        count = centred.shape[1]
        return paddle.addmm(means_grad / count, covariance_grad * (2 / count), centred)


class _Variances(PyLayer):
    @staticmethod
    def forward(ctx: Any, kernels: Tensor, covariance: Tensor) -> Tensor:
        products = paddle.matmul(kernels, covariance)
        ctx.save_for_backward(kernels, products)
        ctx.needed = [not value.stop_gradient for value in (kernels, covariance)]
        return paddle.matmul(products * kernels, filled((kernels.shape[-1],), 1.0, kernels))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
        kernels, products = ctx.saved_tensor()
        grad = grad.unsqueeze(-1)
        return (
            products * (2 * grad) if ctx.needed[0] else None,
            paddle.matmul(kernels, kernels * grad, transpose_x=True) if ctx.needed[1] else None,
        )


class _MeanSquares(PyLayer):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return paddle.matmul(x * x, filled((x.shape[1],), 1 / x.shape[1], x))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensor()
        return x * (grad * (2 / x.shape[1])).unsqueeze(1)
