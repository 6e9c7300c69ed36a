"""Compares each kind of primitive with Paddle once, on a small block of two branches, before oneDNN is used.

The numbers of operations and arguments in `builders` are part of oneDNN's ABI; a library with others computes something
else, or nothing. The block: `ReLU(BN(K ∗ x) + BN(x) + shift)`, forward and backward, with convolutions that are dense,
grouped and depthwise, a product of matrices, a GELU, and sums that take a number for each image and channel.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import paddle
from paddle import Tensor, _C_ops
from paddle.nn import functional

from ppcls_ext.onednn import builders
from ppcls_ext.onednn.builders import Geometry
from ppcls_ext.onednn.library import Library

_SHAPE, _EPSILON = (2, 7, 5, 16), 1e-5  # N, H, W, C
_TO_LAST, _FROM_LAST = [0, 2, 3, 1], [0, 3, 1, 2]


def largest_difference(library: Library) -> tuple[str, float]:
    """Name and size of the largest difference, relative to the largest number of Paddle's result; nan is the largest.

    Raises:
        UnsupportedError: the library has no fast primitive of one of the kinds.
        RuntimeError: a primitive does not run.
    """
    found = [("", 0.0)]
    with paddle.no_grad():
        for name, got, expected in _results(library):
            difference = float((got - expected).abs().max() / expected.abs().max())
            found.append((name, difference if np.isfinite(difference) else float("inf")))
    return max(found, key=lambda pair: pair[1])


def _results(library: Library) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Name, the library's result and Paddle's."""
    random = np.random.RandomState(0)

    def tensor(*shape: int) -> Tensor:
        return paddle.to_tensor(random.randn(*shape).astype("float32"), place=paddle.CPUPlace())

    def run(build: Callable, sizes: tuple, inputs: list[Tensor], *shapes: tuple) -> list[Tensor]:
        outputs = [tensor(*shape) for shape in shapes]
        build(library, *sizes)(*[value.data_ptr() for value in (*inputs, *outputs)])
        return outputs

    x, grad, other = tensor(*_SHAPE), tensor(*_SHAPE), tensor(*_SHAPE)
    channels = _SHAPE[3]
    gamma, beta, shift = tensor(channels), tensor(channels), tensor(channels)
    for kind, groups in (("dense", 1), ("grouped", 2), ("depthwise", channels)):
        kernel, geometry = tensor(channels, channels // groups, 3, 3), Geometry(1, 1, groups)
        sizes = (_SHAPE, tuple(kernel.shape), geometry, 0)
        y = _convolve(x, kernel, groups), *_convolution_gradients(x, kernel, grad, groups)
        yield f"{kind} convolution", run(builders.convolution, (*sizes, False), [x, kernel], _SHAPE)[0], y[0]
        yield f"{kind} input gradient", run(builders.convolution_input_gradient, sizes, [grad, kernel], _SHAPE)[0], y[1]
        (kernel_grad,) = run(builders.convolution_kernel_gradient, sizes, [x, grad], tuple(kernel.shape))
        yield f"{kind} kernel gradient", kernel_grad, y[2]
        biased = run(builders.convolution, (*sizes, True), [x, kernel, beta], _SHAPE)[0]
        yield f"{kind} convolution with bias", biased, y[0] + beta
    vector = (channels,)
    normalised, mean, variance = run(
        builders.normalisation, (_SHAPE, _EPSILON, False), [x, gamma, beta], _SHAPE, vector, vector
    )
    expected = _normalise(x, gamma, beta, grad)
    yield "normalisation", normalised, expected[0]
    yield "mean", mean, x.mean([0, 1, 2])
    yield "variance", variance, paddle.square(x - x.mean([0, 1, 2])).mean([0, 1, 2])
    inputs = [x, mean, variance, grad, gamma]
    grads = run(builders.normalisation, (_SHAPE, _EPSILON, True), inputs, _SHAPE, vector, vector)
    for name, got, wanted in zip(("x", "γ", "β"), grads, expected[1:]):
        yield f"gradient of a normalisation's {name}", got, wanted
    scale = paddle.square(shift)
    by_them = (x - shift) * paddle.rsqrt(scale + _EPSILON) * gamma + beta
    given = run(builders.normalisation_by, (_SHAPE, _EPSILON), [x, shift, scale, gamma, beta], _SHAPE)[0]
    yield "normalisation by statistics", given, by_them
    inputs = [x, shift, gamma, beta, grad, shift]
    got = run(builders.normalisation_gradient, (_SHAPE,), inputs, _SHAPE)[0]
    yield "sum and products of a normalisation's gradient", got, ((x + shift) * gamma + beta + grad) * shift
    through, inputs = (_SHAPE, True, (True, False), True), [x, gamma, shift, other]
    relu_of_sum = functional.relu(x * gamma + shift + other)
    yield "sum through a ReLU", run(builders.weighted_sum, through, inputs, _SHAPE)[0], relu_of_sum
    yield (
        "sum",
        run(builders.weighted_sum, (_SHAPE, False, (False,), False), [x, other, grad], _SHAPE)[0],
        x + other + grad,
    )
    numbers = tensor(_SHAPE[0], channels)
    spread = numbers.reshape([_SHAPE[0], 1, 1, channels])
    for product in (True, False):
        got = run(builders.by_picture, (_SHAPE, product, True), [x, numbers, other], _SHAPE)[0]
        yield "a number for each image and channel", got, (x * spread if product else x + spread) + other
    for name, algorithm in (("ReLU", builders.RELU), ("GELU", builders.GELU)):
        y = functional.relu(x) if name == "ReLU" else functional.gelu(x)
        x_grad = _C_ops.relu_grad(y, grad) if name == "ReLU" else _C_ops.gelu_grad(x, grad, False)
        yield name, run(builders.activation, (_SHAPE, algorithm, False), [x], _SHAPE)[0], y
        source = y if algorithm == builders.RELU else x
        got = run(builders.activation, (_SHAPE, algorithm, True), [source, grad], _SHAPE)[0]
        yield f"gradient of {name}", got, x_grad
    contiguous = x.transpose(_FROM_LAST).contiguous()
    yield "order of memory", run(builders.layout, (_SHAPE,), [contiguous], _SHAPE)[0], x
    left, right, result = tensor(6, 8), tensor(8, 10), tensor(6, 10)
    matrices = (6, 10, 8, 1.0, left.data_ptr(), 8, right.data_ptr(), 10, 0.0, result.data_ptr(), 10)
    if library.multiply(b"N", b"N", *matrices):
        raise RuntimeError("oneDNN could not multiply two matrices")
    yield "product of matrices", result, paddle.matmul(left, right)


def _convolve(x: Tensor, kernel: Tensor, groups: int) -> Tensor:
    return functional.conv2d(x.transpose(_FROM_LAST), kernel, None, 1, 1, groups=groups).transpose(_TO_LAST)


def _convolution_gradients(x: Tensor, kernel: Tensor, grad: Tensor, groups: int) -> tuple[Tensor, Tensor]:
    """By Paddle's operation: its gradient graph, which several threads may not use at once, is left alone."""
    sizes = ([1, 1], [1, 1], "EXPLICIT", [1, 1], groups, "NCHW")
    x_grad, kernel_grad = _C_ops.conv2d_grad(x.transpose(_FROM_LAST), kernel, grad.transpose(_FROM_LAST), *sizes)
    return x_grad.transpose(_TO_LAST), kernel_grad


def _normalise(x: Tensor, gamma: Tensor, beta: Tensor, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The normalised map, and the gradients of x, γ and β."""
    axes, centred = [0, 1, 2], x - x.mean([0, 1, 2])
    inverse = paddle.rsqrt(paddle.square(centred).mean(axes) + _EPSILON)
    standard = centred * inverse
    x_grad = gamma * inverse * (grad - grad.mean(axes) - standard * (grad * standard).mean(axes))
    return standard * gamma + beta, x_grad, (grad * standard).sum(axes), grad.sum(axes)
