"""Builds the primitives: what oneDNN's C API wants to know for each operation.

Maps are given as (N, H, W, C), the order of their memory; oneDNN names the same memory (N, C, H, W) with strides.
`numbers` says whether they are float32 or bfloat16; vectors, kernels in memory and the gradients of these are float32.
oneDNN adds in float32 always.
"""

from __future__ import annotations

import contextlib
import ctypes
import math
from collections.abc import Sequence
from typing import NamedTuple

from ppcls_ext.onednn.library import Copies, Description, Handle, Library, Primitive, UnsupportedError, dims
from ppcls_ext.onednn.memory import FLOAT32

# <dnnl_types.h>: kinds, algorithms, flags, and the indices of arguments
_TRAINING, _BACKWARD, _DIRECT, _GIVEN_STATISTICS, _SCALE_AND_SHIFT = 64, 128, 1, 1, 2 | 4
RELU, GELU, _SQUARE = 0x20, 0x31, 0x23
_RELU_FROM_OUTPUT, _ADD, _MULTIPLY = 0x100, 0x1FFF0, 0x1FFF1
_SRC, _SRC_1, _DST, _WEIGHTS, _BIAS, _MEAN, _VARIANCE, _SCALE, _SHIFT = 1, 2, 17, 33, 41, 49, 50, 51, 52
_DIFF_SRC, _DIFF_DST, _DIFF_WEIGHTS, _DIFF_SCALE, _DIFF_SHIFT, _POST_OP = 129, 145, 161, 255, 256, 0x8000
_ZERO = ctypes.c_float(0)
#: Numbers in a bfloat16 map from which on all threads normalise it.
_SHARED = 1 << 17

Shape = Sequence[int]


class Geometry(NamedTuple):
    """Of a convolution: stride and padding, px, and groups."""

    stride: int = 1
    padding: int = 0
    groups: int = 1

    def output_shape(self, shape: Shape, kernel: Shape) -> list[int]:
        """(N, Ho, Wo, O) from (N, H, W, C) and (O, C / groups, k, k)."""
        height, width = ((side + 2 * self.padding - kernel[2]) // self.stride + 1 for side in shape[1:3])
        return [shape[0], height, width, kernel[0]]


def convolution(
    library: Library,
    shape: Shape,
    kernel: Shape,
    geometry: Geometry,
    pitch: int,
    bias: bool,
    numbers: int = FLOAT32,
) -> Primitive:
    """(x, kernel, bias where there is one) → y; `pitch`: numbers from pixel to pixel in memory, of x and y alike."""
    sides = _Convolution(library, shape, kernel, geometry, pitch, numbers)
    inputs = [(_SRC, sides.x()), (_WEIGHTS, sides.kernel()), *([(_BIAS, sides.bias())] if bias else [])]
    return Primitive(library, sides.forward(bias), inputs, [(_DST, sides.y())])


def convolution_input_gradient(
    library: Library, shape: Shape, kernel: Shape, geometry: Geometry, pitch: int, numbers: int = FLOAT32
) -> Primitive:
    """(gradient of y, kernel) → gradient of x."""
    sides = _Convolution(library, shape, kernel, geometry, pitch, numbers)
    descriptor = sides.backward("data", sides.any_x(), sides.any_kernel(), sides.any_y())
    inputs = [(_DIFF_DST, sides.y()), (_WEIGHTS, sides.kernel())]
    return Primitive(library, descriptor, inputs, [(_DIFF_SRC, sides.x())])


def convolution_kernel_gradient(
    library: Library, shape: Shape, kernel: Shape, geometry: Geometry, pitch: int, numbers: int = FLOAT32
) -> Primitive:
    """(x, gradient of y) → gradient of the kernel."""
    sides = _Convolution(library, shape, kernel, geometry, pitch, numbers)
    descriptor = sides.backward("weights", sides.any_x(), sides.any_kernel(FLOAT32), None, sides.any_y())
    inputs = [(_SRC, sides.x()), (_DIFF_DST, sides.y())]
    return Primitive(library, descriptor, inputs, [(_DIFF_WEIGHTS, sides.kernel())])


def pointwise(library: Library, pixels: int, kernel: Shape, bias: bool, numbers: int = FLOAT32) -> Primitive:
    """(x, kernel, bias where there is one) → y, of a kernel (O, C) of the maps' kind, by a product of matrices."""
    sides = _Product(library, pixels, kernel, numbers)
    vector = library.description([1, kernel[0]], [kernel[0], 1])
    tensors = (sides.x(), sides.kernel(turned=True), vector if bias else None, sides.y())
    inputs = [(_SRC, tensors[0]), (_WEIGHTS, tensors[1]), *([(_BIAS, vector)] if bias else [])]
    return Primitive(library, sides.product(sides.channels, *tensors), inputs, [(_DST, tensors[3])])


def pointwise_input_gradient(library: Library, pixels: int, kernel: Shape, numbers: int = FLOAT32) -> Primitive:
    """(gradient of y, kernel) → gradient of x."""
    sides = _Product(library, pixels, kernel, numbers)
    grad, matrix, result = sides.y(), sides.kernel(), sides.x()
    inputs = [(_SRC, grad), (_WEIGHTS, matrix)]
    return Primitive(library, sides.product(sides.outputs, grad, matrix, None, result), inputs, [(_DST, result)])


def pointwise_kernel_gradient(library: Library, pixels: int, kernel: Shape, numbers: int = FLOAT32) -> Primitive:
    """(gradient of y, x) → gradient of the kernel."""
    sides = _Product(library, pixels, kernel, numbers)
    grad, x, result = sides.y(turned=True), sides.x(), sides.kernel_gradient()
    inputs = [(_SRC, grad), (_WEIGHTS, x)]
    return Primitive(library, sides.product(pixels, grad, x, None, result), inputs, [(_DST, result)])


def patches(library: Library, shape: Shape, kernel: Shape, geometry: Geometry, pitch: int, numbers: int) -> Copies:
    """The map → for each group, output pixel and place in the kernel the C / groups numbers under it, row after row.

    What lies in the padding is not written: it must be zero before.
    """
    (batch, height, width, channels), (size, groups) = shape, (kernel[2], geometry.groups)
    _, out_height, out_width, _ = geometry.output_shape(shape, kernel)
    pitch, stride, own = pitch or channels, geometry.stride, channels // groups
    row = size * size * own  # of a patch
    copies = []
    for place in range(size * size):
        down, right = place // size - geometry.padding, place % size - geometry.padding
        top, rows = _inside(out_height, height, stride, down)
        left, columns = _inside(out_width, width, stride, right)
        if rows <= 0 or columns <= 0:
            continue
        sizes = [batch, rows, columns, groups, own]
        given = [height * width * pitch, stride * width * pitch, stride * pitch, own, 1]
        wanted = [out_height * out_width * row, out_width * row, row, batch * out_height * out_width * row, 1]
        source = ((top * stride + down) * width + left * stride + right) * pitch
        target = (top * out_width + left) * row + place * own
        part, its_rows = (library.description(sizes, strides, numbers) for strides in (given, wanted))
        copies.append((_reorder(library, part, its_rows), numbers * source, numbers * target))
    return Copies(copies)


def _inside(outputs: int, inputs: int, stride: int, shift: int) -> tuple[int, int]:
    """The first of the outputs whose input, `stride · output + shift`, exists, and how many follow, with it."""
    first = max(0, -(shift // stride))
    return first, min(outputs - 1, (inputs - 1 - shift) // stride) - first + 1


def patches_product(
    library: Library, shape: Shape, kernel: Shape, geometry: Geometry, pitch: int, numbers: int
) -> Primitive:
    """(gradient of y, patches) → gradient of the kernel, (O, k, k, C / groups)."""
    batch, out_height, out_width, outputs = geometry.output_shape(shape, kernel)
    pixels, groups, pitch = batch * out_height * out_width, geometry.groups, pitch or outputs
    each, row = outputs // groups, kernel[1] * kernel[2] * kernel[3]
    grad = library.description([groups, each, pixels], [each, 1, pitch], numbers)
    rows = library.description([groups, pixels, row], [pixels * row, row, 1], numbers)
    result = library.description([groups, each, row], [each * row, row, 1])
    descriptor = library.descriptor("matmul", library.engine, grad, rows, None, result)
    return Primitive(library, descriptor, [(_SRC, grad), (_WEIGHTS, rows)], [(_DST, result)])


def kernel_from_rows(library: Library, kernel: Shape) -> Primitive:
    """(O, k, k, C) → (O, C, k, k)."""
    outputs, channels, places = kernel[0], kernel[1], kernel[2] * kernel[3]
    sizes, dense = [outputs, channels, places], _dense_strides([outputs, channels, places])
    given = library.description(sizes, [channels * places, 1, channels])
    return _reorder(library, given, library.description(sizes, dense))


def column_sums(library: Library, rows: int, columns: int, numbers: int) -> Primitive:
    """(ones, a matrix (rows, columns)) → the sum of each column, float32: of bfloat16 numbers a product is exact."""
    ones = library.description([1, rows], [rows, 1], numbers)
    matrix = library.description([rows, columns], [columns, 1], numbers)
    sums = library.description([1, columns], [columns, 1])
    descriptor = library.descriptor("matmul", library.engine, ones, matrix, None, sums)
    return Primitive(library, descriptor, [(_SRC, ones), (_WEIGHTS, matrix)], [(_DST, sums)])


class _Product:
    """Descriptions of the matrices of a pointwise convolution: x (pixels, C), its kernel (O, C), y (pixels, O)."""

    def __init__(self, library: Library, pixels: int, kernel: Shape, numbers: int) -> None:
        self.library, self.pixels, self.numbers = library, pixels, numbers
        self.outputs, self.channels = kernel[:2]

    def x(self) -> Description:
        return self._matrix(self.pixels, self.channels)

    def y(self, turned: bool = False) -> Description:
        return self._matrix(self.pixels, self.outputs, turned)

    def kernel(self, turned: bool = False) -> Description:
        return self._matrix(self.outputs, self.channels, turned)

    def kernel_gradient(self) -> Description:
        return self.library.description([self.outputs, self.channels], [self.channels, 1])

    def product(self, summands: int, *tensors: Handle | None) -> Handle:
        if summands == 1 and self.numbers == FLOAT32:
            # with AVX-512 oneDNN 3.6.2 (brg_matmul) leaves the result as it was
            raise UnsupportedError("products of one number each are wrong")
        return self.library.descriptor("matmul", self.library.engine, *tensors)

    def _matrix(self, rows: int, columns: int, turned: bool = False) -> Description:
        sizes, strides = [rows, columns], [columns, 1]
        if turned:
            sizes.reverse()
            strides.reverse()
        return self.library.description(sizes, strides, self.numbers)


class _Convolution:
    """Descriptions of a convolution's tensors, as they are (`x`) and as oneDNN is to take them (`any_x`)."""

    def __init__(
        self, library: Library, shape: Shape, kernel: Shape, geometry: Geometry, pitch: int, numbers: int
    ) -> None:
        self.library, self.shape, self.geometry, self.pitch, self.numbers = library, shape, geometry, pitch, numbers
        self.out_shape, self.kernel_shape = geometry.output_shape(shape, kernel), list(kernel)
        if geometry.groups > 1:
            self.kernel_shape = [geometry.groups, kernel[0] // geometry.groups, *kernel[1:]]

    def x(self) -> Description:
        return _map(self.library, self.shape, self.numbers, self.pitch)

    def any_x(self) -> Description:
        return _map(self.library, self.shape, self.numbers)

    def y(self) -> Description:
        return _map(self.library, self.out_shape, self.numbers, self.pitch)

    def any_y(self) -> Description:
        return _map(self.library, self.out_shape, self.numbers)

    def kernel(self) -> Description:
        return self.library.description(self.kernel_shape, _dense_strides(self.kernel_shape))

    def any_kernel(self, numbers: int | None = None) -> Description:
        return self.library.description(self.kernel_shape, None, self.numbers if numbers is None else numbers)

    def bias(self) -> Description:
        return _vector(self.library, self.out_shape[3])

    def forward(self, bias: bool = False) -> Handle:
        tensors = (self.any_x(), self.any_kernel(), self.bias() if bias else None, self.any_y())
        return self.library.descriptor(
            "convolution_forward", self.library.engine, _TRAINING, _DIRECT, *tensors, *self._sizes()
        )

    def backward(self, kind: str, *tensors: Handle | None) -> Handle:
        sizes = (*self._sizes(), self.forward())
        return self.library.descriptor(f"convolution_backward_{kind}", self.library.engine, _DIRECT, *tensors, *sizes)

    def _sizes(self) -> tuple[ctypes.Array, ...]:
        stride, padding = self.geometry.stride, dims(self.geometry.padding, self.geometry.padding)
        return dims(stride, stride), dims(0, 0), padding, padding


def normalisation(library: Library, shape: Shape, epsilon: float, gradient: bool, numbers: int = FLOAT32) -> Primitive:
    """(x, γ, β) → (y, mean, variance), or (x, mean, variance, gradient of y, γ) → (gradients of x, γ, β).

    In one thread, as Paddle does it, but several times faster: oneDNN's threads wait for each other in a loop here,
    which on a machine with more to do (the processes that load images) takes a hundred times the work itself. Of large
    bfloat16 maps each thread gets channels of its own, and waits for nobody: oneDNN does that where there is one image,
    so all pixels are said to be of one.
    """
    is_shared = numbers != FLOAT32 and math.prod(shape) >= _SHARED
    channels, of_batch = shape[3], ctypes.c_float(epsilon)
    x = _map(library, (1, 1, math.prod(shape[:3]), channels) if is_shared else shape, numbers)
    vector = _vector(library, channels)
    with contextlib.nullcontext() if is_shared else library.one_thread():
        forward = library.descriptor(
            "batch_normalization_forward", library.engine, _TRAINING, x, x, of_batch, _SCALE_AND_SHIFT
        )
        if not gradient:
            outputs = [(_DST, x), (_MEAN, vector), (_VARIANCE, vector)]
            return Primitive(library, forward, [(_SRC, x), (_SCALE, vector), (_SHIFT, vector)], outputs)
        backward = library.descriptor(
            "batch_normalization_backward", library.engine, _BACKWARD, x, x, x, of_batch, _SCALE_AND_SHIFT, forward
        )
        inputs = [(_SRC, x), (_MEAN, vector), (_VARIANCE, vector), (_DIFF_DST, x), (_SCALE, vector)]
        outputs = [(_DIFF_SRC, x), (_DIFF_SCALE, vector), (_DIFF_SHIFT, vector)]
        return Primitive(library, backward, inputs, outputs)


def normalisation_by(library: Library, shape: Shape, epsilon: float, numbers: int = FLOAT32) -> Primitive:
    """(x, mean, variance, γ, β) → y; in one thread, too."""
    x, vector, flags = _map(library, shape, numbers), _vector(library, shape[3]), _GIVEN_STATISTICS | _SCALE_AND_SHIFT
    with library.one_thread():
        descriptor = library.descriptor(
            "batch_normalization_forward", library.engine, _TRAINING, x, x, ctypes.c_float(epsilon), flags
        )
        inputs = [(_SRC, x), (_MEAN, vector), (_VARIANCE, vector), (_SCALE, vector), (_SHIFT, vector)]
        return Primitive(library, descriptor, inputs, [(_DST, x)])


def shifted_and_scaled(library: Library, shape: Shape, numbers: int = FLOAT32) -> Primitive:
    """(x, −μ, vectors a and β) → `(x − μ) · a + β`."""
    x, vector = _map(library, shape, numbers), _channel_vector(library, shape)
    post_ops = library.make("post_ops", "post_ops_create")
    inputs = [(_SRC, x), (_SRC_1, vector)]
    for number, algorithm in enumerate([_MULTIPLY, _ADD]):
        library.call("post_ops_append_binary", post_ops, algorithm, vector)
        inputs.append((_POST_OP * (number + 1) | _SRC_1, vector))
    descriptor = library.descriptor("binary", library.engine, _ADD, x, vector, x, post_ops=post_ops)
    return Primitive(library, descriptor, inputs, [(_DST, x)])


def normalisation_gradient(library: Library, shape: Shape, numbers: int = FLOAT32) -> Primitive:
    """(x, −μ, vectors a and b, gradient of y, vector c) → `((x − μ) · a + b + gradient) · c`."""
    x, vector = _map(library, shape, numbers), _channel_vector(library, shape)
    post_ops = library.make("post_ops", "post_ops_create")
    inputs = [(_SRC, x), (_SRC_1, vector)]
    for number, (algorithm, other) in enumerate([(_MULTIPLY, vector), (_ADD, vector), (_ADD, x), (_MULTIPLY, vector)]):
        library.call("post_ops_append_binary", post_ops, algorithm, other)
        inputs.append((_POST_OP * (number + 1) | _SRC_1, other))
    descriptor = library.descriptor("binary", library.engine, _ADD, x, vector, x, post_ops=post_ops)
    return Primitive(library, descriptor, inputs, [(_DST, x)])


def centred_squares(library: Library, shape: Shape) -> Primitive:
    """(x, −μ) → (x − μ)²; float32."""
    x, vector = _map(library, shape, FLOAT32), _channel_vector(library, shape)
    post_ops = library.make("post_ops", "post_ops_create")
    library.call("post_ops_append_eltwise", post_ops, _SQUARE, _ZERO, _ZERO)
    descriptor = library.descriptor("binary", library.engine, _ADD, x, vector, x, post_ops=post_ops)
    return Primitive(library, descriptor, [(_SRC, x), (_SRC_1, vector)], [(_DST, x)])


def weighted_sum(
    library: Library, shape: Shape, scaled: bool, vectors: Sequence[bool], relu: bool, numbers: int = FLOAT32
) -> Primitive:
    """(x, factor of its channels or else another map, more maps or vectors) → the sum, maybe through a ReLU."""
    x, vector = _map(library, shape, numbers), _channel_vector(library, shape)
    post_ops = library.make("post_ops", "post_ops_create")
    inputs = [(_SRC, x), (_SRC_1, vector if scaled else x)]
    for number, is_vector in enumerate(vectors):
        other = vector if is_vector else x
        library.call("post_ops_append_binary", post_ops, _ADD, other)
        inputs.append((_POST_OP * (number + 1) | _SRC_1, other))
    if relu:
        library.call("post_ops_append_eltwise", post_ops, RELU, _ZERO, _ZERO)
    tensors = (x, vector if scaled else x, x)
    algorithm = _MULTIPLY if scaled else _ADD
    descriptor = library.descriptor("binary", library.engine, algorithm, *tensors, post_ops=post_ops)
    return Primitive(library, descriptor, inputs, [(_DST, x)])


def by_picture(library: Library, shape: Shape, product: bool, addend: bool, numbers: int = FLOAT32) -> Primitive:
    """(x, a number for each image and channel, maybe a map) → the first two's product or sum, plus the map."""
    batch, height, width, channels = shape
    x = _map(library, shape, numbers)
    factors = library.description([batch, channels, 1, 1], [channels, 1, channels, channels])
    if channels == 1:
        # the same memory with the images as channels, since oneDNN has no fast implementation of the other
        x = library.description([1, batch, height, width], _dense_strides([1, batch, height, width]), numbers)
        factors = library.description([1, batch, 1, 1], [batch, 1, 1, 1])
    inputs, post_ops = [(_SRC, x), (_SRC_1, factors)], library.make("post_ops", "post_ops_create")
    if addend:
        library.call("post_ops_append_binary", post_ops, _ADD, x)
        inputs.append((_POST_OP | _SRC_1, x))
    algorithm = _MULTIPLY if product else _ADD
    descriptor = library.descriptor("binary", library.engine, algorithm, x, factors, x, post_ops=post_ops)
    return Primitive(library, descriptor, inputs, [(_DST, x)])


def activation(library: Library, shape: Shape, algorithm: int, gradient: bool, numbers: int = FLOAT32) -> Primitive:
    """X → y, or (x, gradient of y) → gradient of x; for the ReLU's gradient y takes the place of x."""
    x = _map(library, shape, numbers)
    algorithm = _RELU_FROM_OUTPUT if gradient and algorithm == RELU else algorithm
    forward = library.descriptor("eltwise_forward", library.engine, _TRAINING, algorithm, x, x, _ZERO, _ZERO)
    if not gradient:
        return Primitive(library, forward, [(_SRC, x)], [(_DST, x)])
    backward = library.descriptor("eltwise_backward", library.engine, algorithm, x, x, x, _ZERO, _ZERO, forward)
    given = _DST if algorithm == _RELU_FROM_OUTPUT else _SRC
    return Primitive(library, backward, [(given, x), (_DIFF_DST, x)], [(_DIFF_SRC, x)])


def layout(library: Library, shape: Shape, numbers: int = FLOAT32) -> Primitive:
    """The memory (N, C, H, W) of a map → (N, H, W, C)."""
    batch, height, width, channels = shape
    sizes = [batch, channels, height, width]
    given = library.description(sizes, _dense_strides(sizes), numbers)
    return _reorder(library, given, _map(library, shape, numbers))


def conversion(library: Library, shape: Shape, source: int, target: int) -> Primitive:
    """The numbers of a map as another kind of numbers, rounded to the nearest, of two the even one."""
    return _reorder(library, _map(library, shape, source), _map(library, shape, target))


def kernel_part(library: Library, kernel: Shape, sides: Shape, strides: Shape, back: bool) -> Primitive:
    """Rows and columns of a kernel (O, C, k, k), as many as `sides` says → memory with those strides; `back`: added."""
    sizes = [*kernel[:2], *sides]
    part, copy = library.description(sizes, _dense_strides(kernel)), library.description(sizes, strides)
    return _reorder(library, copy, part, add=True) if back else _reorder(library, part, copy)


def _reorder(library: Library, source: Description, target: Description, add: bool = False) -> Primitive:
    attributes = None
    if add:
        post_ops = library.make("post_ops", "post_ops_create")
        library.call("post_ops_append_sum", post_ops, ctypes.c_float(1), 0, 0)
        attributes = library.make("primitive_attr", "primitive_attr_create")
        library.call("primitive_attr_set_post_ops", attributes, post_ops)
    descriptor = library.make(
        "primitive_desc", "reorder_primitive_desc_create", source, library.engine, target, library.engine, attributes
    )
    return Primitive(library, descriptor, [(_SRC, source)], [(_DST, target)])


def _map(library: Library, shape: Shape, numbers: int, pitch: int = 0) -> Description:
    batch, height, width, channels = shape
    pitch = pitch or channels
    strides = [height * width * pitch, 1, width * pitch, pitch]
    return library.description([batch, channels, height, width], strides, numbers)


def _channel_vector(library: Library, shape: Shape) -> Description:
    """A number for each channel of a map, as a map that is broadcast."""
    return library.description([1, shape[3], 1, 1], [shape[3], 1, shape[3], shape[3]])


def _vector(library: Library, length: int) -> Description:
    return library.description([length], [1])


def _dense_strides(shape: Shape) -> list[int]:
    strides = [1]
    for size in reversed(shape[1:]):
        strides.insert(0, strides[0] * size)
    return strides
