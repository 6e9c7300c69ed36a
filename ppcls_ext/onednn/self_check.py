"""Compares each kind of primitive with Paddle once, before oneDNN is used.

The numbers of operations and arguments in `builders` are part of oneDNN's ABI; a library with others computes something
else, or nothing. Together the primitives are a block of two branches, forward and backward: convolutions that are
dense, grouped and depthwise, batch normalisations, sums, activations, and products of matrices.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import paddle
from paddle import Tensor

from ppcls_ext.onednn import builders, by_paddle
from ppcls_ext.onednn.builders import Geometry
from ppcls_ext.onednn.library import Library

_SHAPE, _EPSILON = (2, 7, 5, 16), 1e-5  # N, H, W, C


def largest_difference(library: Library) -> tuple[str, float]:
    """Name and size of the largest difference, relative to the largest number of Paddle's result; NaN is infinite.

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
    """Name, the library's result and Paddle's, of each kind."""
    random = np.random.RandomState(0)

    def tensor(*shape: int) -> Tensor:
        return paddle.to_tensor(random.randn(*shape).astype("float32"), place=paddle.CPUPlace())

    def run(build: Callable, sizes: tuple, inputs: list[Tensor], *shapes: tuple) -> list[Tensor]:
        outputs = [tensor(*shape) for shape in shapes or (_SHAPE,)]
        build(library, *sizes)(*[value.data_ptr() for value in (*inputs, *outputs)])
        return outputs

    x, grad, other = tensor(*_SHAPE), tensor(*_SHAPE), tensor(*_SHAPE)
    channels = _SHAPE[3]
    gamma, beta, shift = tensor(channels), tensor(channels), tensor(channels)

    for kind, groups in (("dense", 1), ("grouped", 2), ("depthwise", channels)):
        kernel, geometry = tensor(channels, channels // groups, 3, 3), Geometry(1, 1, groups)
        sizes, kernel_shape = (_SHAPE, tuple(kernel.shape), geometry, 0), tuple(kernel.shape)
        x_grad, kernel_grad = by_paddle.convolution_gradients(x, kernel, grad, geometry)
        for bias in (None, beta):
            inputs = [x, kernel] if bias is None else [x, kernel, bias]
            (y,) = run(builders.convolution, (*sizes, bias is not None), inputs)
            yield f"{kind} convolution", y, by_paddle.convolve(x, kernel, bias, geometry)
        yield f"{kind} input gradient", run(builders.convolution_input_gradient, sizes, [grad, kernel])[0], x_grad
        (got,) = run(builders.convolution_kernel_gradient, sizes, [x, grad], kernel_shape)
        yield f"{kind} kernel gradient", got, kernel_grad

    vector = (channels,)
    y, mean, variance = run(builders.normalisation, (_SHAPE, _EPSILON, False), [x, gamma, beta], _SHAPE, vector, vector)
    statistics = by_paddle.mean_and_variance(x)
    yield "mean", mean, statistics[0]
    yield "variance", variance, statistics[1]
    yield "normalisation", y, by_paddle.normalise_by(x, *statistics, gamma, beta, _EPSILON)
    sums = by_paddle.normalisation_sums(x, grad, *statistics, _EPSILON)
    x_grad = by_paddle.normalisation_gradient(x, *statistics, gamma, grad, _EPSILON, *sums)
    inputs = [x, mean, variance, grad, gamma]
    grads = run(builders.normalisation, (_SHAPE, _EPSILON, True), inputs, _SHAPE, vector, vector)
    for name, got, expected in zip(("x", "γ", "β"), grads, (x_grad, *sums)):
        yield f"gradient of a normalisation's {name}", got, expected
    known = shift, paddle.square(gamma)
    expected = by_paddle.normalise_by(x, *known, gamma, beta, _EPSILON)
    yield (
        "normalisation by statistics",
        run(builders.normalisation_by, (_SHAPE, _EPSILON), [x, *known, gamma, beta])[0],
        expected,
    )
    inputs = [x, shift, gamma, beta, grad, shift]
    (got,) = run(builders.normalisation_gradient, (_SHAPE,), inputs)
    yield "sums and products of a normalisation's gradient", got, by_paddle.scaled_twice(*inputs)

    (got,) = run(builders.weighted_sum, (_SHAPE, True, (True, False), True), [x, gamma, shift, other])
    yield "sum through a ReLU", got, by_paddle.weighted_sum(x, [shift, other], gamma, True)
    (got,) = run(builders.weighted_sum, (_SHAPE, False, (False,), False), [x, other, grad])
    yield "sum", got, by_paddle.weighted_sum(x, [other, grad], None, False)
    numbers = tensor(_SHAPE[0], channels)
    for product in (True, False):
        (got,) = run(builders.by_picture, (_SHAPE, product, True), [x, numbers, other])
        yield "a number for each image and channel", got, by_paddle.by_picture(x, numbers, product, other)
    for name, algorithm in (("ReLU", builders.RELU), ("GELU", builders.GELU)):
        relu = name == "ReLU"
        y = by_paddle.activate(x, relu)
        yield name, run(builders.activation, (_SHAPE, algorithm, False), [x])[0], y
        source = y if relu else x
        (got,) = run(builders.activation, (_SHAPE, algorithm, True), [source, grad])
        yield f"gradient of {name}", got, by_paddle.activate_gradient(source, grad, relu)

    contiguous = x.transpose([0, 3, 1, 2]).contiguous()
    yield "order of memory", run(builders.layout, (_SHAPE,), [contiguous])[0], x
    kernel, part = tensor(4, 3, 3, 3), (4, 3, 2, 2)
    (got,) = run(builders.kernel_part, ((4, 3, 3, 3), (2, 2), (12, 4, 2, 1), False), [kernel], part)
    yield "part of a kernel", got, kernel[:, :, :2, :2]
    left, right, result = tensor(6, 8), tensor(8, 10), tensor(6, 10)
    matrices = (6, 10, 8, 1.0, left.data_ptr(), 8, right.data_ptr(), 10, 0.0, result.data_ptr(), 10)
    if library.multiply(b"N", b"N", *matrices):
        raise RuntimeError("oneDNN could not multiply two matrices")
    yield "product of matrices", result, paddle.matmul(left, right)
