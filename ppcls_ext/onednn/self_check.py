"""Compares each kind of primitive with Paddle once, before oneDNN is used.

The numbers of operations and arguments in `builders` are part of oneDNN's ABI; a library with others computes something
else, or nothing. Together the primitives are a block of two branches, forward and backward: convolutions that are
dense, grouped and depthwise, batch normalisations, sums, activations, and products of matrices. Those of bfloat16 maps
are compared before mixed precision is used.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import paddle
from paddle import Tensor

from ppcls_ext.onednn import builders, by_paddle
from ppcls_ext.onednn.builders import Geometry
from ppcls_ext.onednn.library import Library, UnsupportedError
from ppcls_ext.onednn.memory import BFLOAT16, FLOAT32

_SHAPE, _EPSILON = (2, 7, 5, 16), 1e-5  # N, H, W, C
_CHANNELS = _SHAPE[3]
_PIXELS = _SHAPE[0] * _SHAPE[1] * _SHAPE[2]
#: How far a result in bfloat16, itself rounded to 8 bits, may lie from float32's, relative to its largest number.
_BFLOAT16_TOLERANCE = 2**-7

#: Name, the library's result and Paddle's.
Results = Iterator[tuple[str, Tensor, Tensor]]


def largest_difference(library: Library) -> tuple[str, float]:
    """Name and size of the largest difference, relative to the largest number of Paddle's result; NaN is infinite.

    Raises:
        UnsupportedError: the library has no fast primitive of one of the kinds.
        RuntimeError: a primitive does not run.
    """
    return _largest(_Check(library, FLOAT32))


def bfloat16_fault(library: Library) -> str | None:
    """What is wrong with the primitives of bfloat16 maps; None if they compute what Paddle does in float32."""
    try:
        name, difference = _largest(_Check(library, BFLOAT16))
    except (UnsupportedError, RuntimeError) as error:
        return str(error)
    return None if difference <= _BFLOAT16_TOLERANCE else f"{name}: difference {difference:.1e}"


def _largest(check: _Check) -> tuple[str, float]:
    found = [("", 0.0)]
    with paddle.no_grad():
        for name, got, expected in check.results():
            difference = float((got - expected).abs().max() / expected.abs().max())
            found.append((name, difference if np.isfinite(difference) else float("inf")))
    return max(found, key=lambda pair: pair[1])


class _Check:
    """Runs primitives on maps of float32 or bfloat16 numbers, and Paddle's operations on the same ones in float32."""

    def __init__(self, library: Library, numbers: int) -> None:
        self.library, self.numbers = library, numbers
        self.random = np.random.RandomState(0)
        self.x, self.grad, self.other = (self.tensor(*_SHAPE) for _ in range(3))
        self.gamma, self.beta, self.shift = (self.tensor(_CHANNELS) for _ in range(3))

    def results(self) -> Results:
        """Of each kind of primitive."""
        yield from self.convolutions()
        yield from self.normalisations()
        yield from self.sums()
        yield from self.activations()
        yield from self.products()
        if self.numbers == FLOAT32:
            yield from self.layouts()
        else:
            yield from self.sums_of_products()
            yield from self.conversions()

    def tensor(self, *shape: int) -> Tensor:
        """Random numbers that maps of the kind can hold, float32."""
        value = paddle.to_tensor(self.random.randn(*shape).astype("float32"), place=paddle.CPUPlace())
        return value if self.numbers == FLOAT32 else value.cast("bfloat16").cast("float32")

    def in_memory(self, value: Tensor) -> Tensor:
        """As the primitives read it: maps are of the kind, all else is float32."""
        is_map = self.numbers == BFLOAT16 and tuple(value.shape) == _SHAPE
        return value.cast("bfloat16") if is_map else value

    def run(self, build: Callable, sizes: tuple, inputs: list[Tensor], *shapes: tuple) -> list[Tensor]:
        """The outputs of a primitive, float32."""
        sizes = sizes if self.numbers == FLOAT32 else (*sizes, self.numbers)
        outputs = [self.tensor(*shape) for shape in shapes or (_SHAPE,)]
        inputs, outputs = ([self.in_memory(value) for value in values] for values in (inputs, outputs))
        build(self.library, *sizes)(*[value.data_ptr() for value in (*inputs, *outputs)])
        return [value.cast("float32") for value in outputs]

    def convolutions(self) -> Results:
        """Dense, grouped and depthwise, with their gradients."""
        x, grad = self.x, self.grad
        for kind, groups in (("dense", 1), ("grouped", 2), ("depthwise", _CHANNELS)):
            kernel, geometry = self.tensor(_CHANNELS, _CHANNELS // groups, 3, 3), Geometry(1, 1, groups)
            sizes, kernel_shape = (_SHAPE, tuple(kernel.shape), geometry, 0), tuple(kernel.shape)
            x_grad, kernel_grad = by_paddle.convolution_gradients(x, kernel, grad, geometry)
            for bias in (None, self.beta):
                inputs = [x, kernel] if bias is None else [x, kernel, bias]
                (y,) = self.run(builders.convolution, (*sizes, bias is not None), inputs)
                yield f"{kind} convolution", y, by_paddle.convolve(x, kernel, bias, geometry)
            (got,) = self.run(builders.convolution_input_gradient, sizes, [grad, kernel])
            yield f"{kind} input gradient", got, x_grad
            (got,) = self.run(builders.convolution_kernel_gradient, sizes, [x, grad], kernel_shape)
            yield f"{kind} kernel gradient", got, kernel_grad

    def normalisations(self) -> Results:
        """By the batch's statistics and by others, with their gradients."""
        x, grad, gamma, beta, vector = self.x, self.grad, self.gamma, self.beta, (_CHANNELS,)
        shapes = _SHAPE, vector, vector
        y, mean, variance = self.run(builders.normalisation, (_SHAPE, _EPSILON, False), [x, gamma, beta], *shapes)
        statistics = by_paddle.mean_and_variance(x)
        yield "mean", mean, statistics[0]
        yield "variance", variance, statistics[1]
        yield "normalisation", y, by_paddle.normalise_by(x, *statistics, gamma, beta, _EPSILON)
        sums = by_paddle.normalisation_sums(x, grad, *statistics, _EPSILON)
        x_grad = by_paddle.normalisation_gradient(x, *statistics, gamma, grad, _EPSILON, *sums)
        inputs = [x, mean, variance, grad, gamma]
        grads = self.run(builders.normalisation, (_SHAPE, _EPSILON, True), inputs, *shapes)
        for name, got, expected in zip(("x", "γ", "β"), grads, (x_grad, *sums)):
            yield f"gradient of a normalisation's {name}", got, expected
        if self.numbers == FLOAT32:
            (got,) = self.run(builders.centred_squares, (_SHAPE,), [x, self.shift])
            yield "centred squares", got, by_paddle.centred_squares(x, self.shift)
        known = self.shift, paddle.square(gamma)
        expected = by_paddle.normalise_by(x, *known, gamma, beta, _EPSILON)  # first: the library might write there
        (got,) = self.run(builders.normalisation_by, (_SHAPE, _EPSILON), [x, *known, gamma, beta])
        yield "normalisation by statistics", got, expected
        (got,) = self.run(builders.shifted_and_scaled, (_SHAPE,), [x, self.shift, gamma, beta])
        yield "shifted and scaled", got, (x + self.shift) * gamma + beta
        inputs = [x, self.shift, gamma, beta, grad, self.shift]
        (got,) = self.run(builders.normalisation_gradient, (_SHAPE,), inputs)
        yield "sums and products of a normalisation's gradient", got, by_paddle.scaled_twice(*inputs)

    def sums(self) -> Results:
        """Of maps, vectors, and numbers for each image and channel."""
        x, grad, other, gamma, shift = self.x, self.grad, self.other, self.gamma, self.shift
        (got,) = self.run(builders.weighted_sum, (_SHAPE, True, (True, False), True), [x, gamma, shift, other])
        yield "sum through a ReLU", got, by_paddle.weighted_sum(x, [shift, other], gamma, True)
        (got,) = self.run(builders.weighted_sum, (_SHAPE, False, (False,), False), [x, other, grad])
        yield "sum", got, by_paddle.weighted_sum(x, [other, grad], None, False)
        numbers = self.tensor(_SHAPE[0], _CHANNELS)
        for product in (True, False):
            (got,) = self.run(builders.by_picture, (_SHAPE, product, True), [x, numbers, other])
            yield "a number for each image and channel", got, by_paddle.by_picture(x, numbers, product, other)

    def activations(self) -> Results:
        """With their gradients."""
        x, grad = self.x, self.grad
        for name, algorithm in (("ReLU", builders.RELU), ("GELU", builders.GELU)):
            relu = name == "ReLU"
            y = by_paddle.activate(x, relu)
            yield name, self.run(builders.activation, (_SHAPE, algorithm, False), [x])[0], y
            source = y if relu else x
            (got,) = self.run(builders.activation, (_SHAPE, algorithm, True), [source, grad])
            yield f"gradient of {name}", got, by_paddle.activate_gradient(source, grad, relu)

    def layouts(self) -> Results:
        """Orders of memory, which are used of float32 numbers only."""
        contiguous = self.x.transpose([0, 3, 1, 2]).contiguous()
        yield "order of memory", self.run(builders.layout, (_SHAPE,), [contiguous])[0], self.x
        kernel, part = self.tensor(4, 3, 3, 3), (4, 3, 2, 2)
        (got,) = self.run(builders.kernel_part, ((4, 3, 3, 3), (2, 2), (12, 4, 2, 1), False), [kernel], part)
        yield "part of a kernel", got, kernel[:, :, :2, :2]

    def products(self) -> Results:
        """Of matrices: pointwise convolutions."""
        x, kernel, geometry = self.x, self.tensor(_CHANNELS, _CHANNELS, 1, 1), Geometry()
        sizes, matrix = (_PIXELS, tuple(kernel.shape)), kernel if self.numbers == FLOAT32 else kernel.cast("bfloat16")
        x_grad, kernel_grad = by_paddle.convolution_gradients(x, kernel, self.grad, geometry)
        for bias in (None, self.beta):
            inputs = [x, matrix] if bias is None else [x, matrix, bias]
            (y,) = self.run(builders.pointwise, (*sizes, bias is not None), inputs)
            yield "product of matrices", y, by_paddle.convolve(x, kernel, bias, geometry)
        (got,) = self.run(builders.pointwise_input_gradient, sizes, [self.grad, matrix])
        yield "product of matrices for an input gradient", got, x_grad
        (got,) = self.run(builders.pointwise_kernel_gradient, sizes, [self.grad, x], sizes[1])
        yield "product of matrices for a kernel gradient", got, kernel_grad

    def sums_of_products(self) -> Results:
        """Sums of columns, and products of a map's patches, which are used of bfloat16 numbers only."""
        x, ones = self.x, paddle.ones([_PIXELS]).cast("bfloat16")
        (got,) = self.run(builders.column_sums, (_PIXELS, _CHANNELS), [ones, x], (_CHANNELS,))
        yield "sums of columns", got, x.sum([0, 1, 2])
        for groups in (1, 2):
            kernel_shape, geometry = (_CHANNELS, _CHANNELS // groups, 3, 3), Geometry(1, 1, groups)
            of_patches = (_SHAPE, kernel_shape, geometry, 0, self.numbers)
            patches = paddle.zeros([groups * _PIXELS * 9 * kernel_shape[1]]).cast("bfloat16")
            rows, got = self.tensor(*kernel_shape), self.tensor(*kernel_shape)
            x_half, grad_half = self.in_memory(x), self.in_memory(self.grad)
            builders.patches(self.library, *of_patches)(x_half.data_ptr(), patches.data_ptr())
            product = builders.patches_product(self.library, *of_patches)
            product(grad_half.data_ptr(), patches.data_ptr(), rows.data_ptr())
            builders.kernel_from_rows(self.library, kernel_shape)(rows.data_ptr(), got.data_ptr())
            expected = by_paddle.convolution_gradients(x, self.tensor(*kernel_shape), self.grad, geometry)[1]
            yield "product of patches", got, expected

    def conversions(self) -> Results:
        """From float32 to bfloat16 and back."""
        fine = paddle.to_tensor(self.random.randn(*_SHAPE).astype("float32"), place=paddle.CPUPlace())
        rounded, back = fine.cast("bfloat16"), paddle.empty_like(fine)
        expected = rounded.cast("float32")
        builders.conversion(self.library, _SHAPE, BFLOAT16, FLOAT32)(rounded.data_ptr(), back.data_ptr())
        yield "conversion from bfloat16", back, expected
        builders.conversion(self.library, _SHAPE, FLOAT32, BFLOAT16)(fine.data_ptr(), rounded.data_ptr())
        yield "conversion to bfloat16", rounded.cast("float32"), expected
