"""What oneDNN computes on channels-last maps: convolution, batch normalisation, sums and activations, with gradients.

Plain functions from contiguous float32 tensors, maps (N, H, W, C), kernels and vectors of Paddle's shapes, to new
tensors. No gradient is recorded. All raise `UnsupportedError` where oneDNN has no fast implementation.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence

import paddle
from paddle import Tensor

from ppcls_ext.onednn import builders, products, tiny_maps
from ppcls_ext.onednn.arena import empty_map
from ppcls_ext.onednn.builders import Geometry
from ppcls_ext.onednn.find import library
from ppcls_ext.onednn.library import Primitive, UnsupportedError
from ppcls_ext.onednn.statistics import LONGEST, mean_and_variance

#: Numbers in a map from which on copying it is worth while to reach a faster gradient.
LARGE = 1 << 14


def convolve(x: Tensor, kernel: Tensor, bias: Tensor | None, geometry: Geometry) -> Tensor:
    """`x: (N, H, W, C)`, `kernel: (O, C / groups, k, k)`, `bias: (O,)` → (N, Ho, Wo, O)."""
    shape, kernel_shape = tuple(x.shape), tuple(kernel.shape)
    y = empty_map(geometry.output_shape(shape, kernel_shape))
    if bias is None and products.is_product(kernel_shape, geometry):
        # a kernel that is transposed first, as a map (1, O, 1, C), is multiplied up to three times as fast
        turned = empty_map([kernel_shape[1], kernel_shape[0]])
        _run(builders.layout, ((1, 1, *turned.shape),), kernel, turned)
        products.convolve(x, turned, y)
        return y
    if bias is None and tiny_maps.sees_all(shape, kernel_shape, geometry):
        tiny_maps.convolve(x, kernel, geometry, y)
        return y
    sizes = (shape, kernel_shape, geometry, 0, bias is not None)
    inputs = (x, kernel) if bias is None else (x, kernel, bias)
    _run(builders.convolution, sizes, *inputs, y)
    return y


def input_gradient(grad: Tensor, kernel: Tensor, shape: Sequence[int], geometry: Geometry) -> Tensor:
    """Of `convolve`: `grad: (N, Ho, Wo, O)` → (N, H, W, C) = `shape`."""
    result = empty_map(shape)
    if products.is_product(kernel.shape, geometry):
        products.input_gradient(grad, kernel, result)
    elif tiny_maps.sees_all(shape, kernel.shape, geometry):
        tiny_maps.input_gradient(grad, kernel, geometry, result)
    else:
        _run(builders.input_gradient, (tuple(shape), tuple(kernel.shape), geometry, 0), grad, kernel, result)
    return result


def kernel_gradient(x: Tensor, grad: Tensor, kernel_shape: Sequence[int], geometry: Geometry) -> Tensor:
    """Of `convolve`: `x: (N, H, W, C)`, `grad: (N, Ho, Wo, O)` → the kernel's shape."""
    if kernel_shape[1] == 1 and tuple(x.shape[1:]) == (1, 1, kernel_shape[0]) and grad.shape[1:3] == [1, 1]:
        # ten times faster than oneDNN
        return _kernel_gradient_of_one_pixel(x, grad, kernel_shape, geometry.padding)
    if geometry.stride > 1 and products.is_product(kernel_shape, geometry._replace(stride=1)) and x.shape[3] < 16:
        # oneDNN 3.6.2 (cpu/x64/jit_uni_1x1_conv_utils.hpp) writes beyond its scratch memory there
        x, geometry = x[:, :: geometry.stride, :: geometry.stride].contiguous(), Geometry()
    lacking = kernel_shape[2] + geometry.stride - 1 - x.shape[1]
    if lacking > 0 and kernel_shape[1] == 1 and kernel_shape[0] == geometry.groups and math.prod(x.shape) >= LARGE:
        # for depthwise kernels that are higher than the map oneDNN takes ten times as long; zeros change nothing
        x = _with_zeros(x, lacking)
        grad = _with_zeros(grad, geometry.output_shape(x.shape, kernel_shape)[1] - grad.shape[1])
    result = empty_map(kernel_shape)
    if products.is_product(kernel_shape, geometry) and products.has_product_gradient(x.shape):
        products.kernel_gradient(x, grad, result)
    elif tiny_maps.sees_all(x.shape, kernel_shape, geometry):
        tiny_maps.kernel_gradient(x, grad, geometry, result)
    else:
        _run(builders.kernel_gradient, (tuple(x.shape), tuple(kernel_shape), geometry, 0), x, grad, result)
    return result


def _kernel_gradient_of_one_pixel(x: Tensor, grad: Tensor, kernel_shape: Sequence[int], padding: int) -> Tensor:
    """Of a depthwise convolution of maps of one pixel, which its kernel reads with one number."""
    batch, channels = x.shape[0], x.shape[3]
    terms = (x * grad).reshape([batch, channels])
    sums = paddle.matmul(terms, paddle.ones([batch, 1], "float32"), transpose_x=True)
    return paddle.matmul(sums, _only(kernel_shape[2], padding)).reshape(kernel_shape)


@functools.lru_cache(maxsize=64)
def _only(size: int, place: int) -> Tensor:
    """A kernel (1, size²) of zeros with a one in that row and column."""
    kernel = paddle.zeros([size, size], "float32")
    kernel[place, place] = 1.0
    return kernel.reshape([1, -1])


def _with_zeros(x: Tensor, count: int) -> Tensor:
    """`x: (N, H, W, C)` with so many more rows at the bottom."""
    return paddle.concat([x, _zeros(x.shape[0], count, *x.shape[2:])], 1) if count else x


@functools.lru_cache(maxsize=64)
def _zeros(*shape: int) -> Tensor:
    return paddle.zeros(shape, "float32")


def normalise(x: Tensor, gamma: Tensor, beta: Tensor, epsilon: float) -> tuple[Tensor, Tensor, Tensor]:
    """Batch normalisation by the batch's statistics; also returns these, (C,) each, the variance biased."""
    if math.prod(x.shape[:3]) > LONGEST:
        mean, variance = mean_and_variance(x)
        return normalise_by(x, mean, variance, gamma, beta, epsilon), mean, variance
    y, mean, variance = empty_map(x.shape), paddle.empty(gamma.shape, "float32"), paddle.empty(gamma.shape, "float32")
    _run(builders.normalisation, (tuple(x.shape), epsilon, False), x, gamma, beta, y, mean, variance)
    return y, mean, variance


def normalise_by(x: Tensor, mean: Tensor, variance: Tensor, gamma: Tensor, beta: Tensor, epsilon: float) -> Tensor:
    """As `normalise`, by statistics that are known."""
    y = empty_map(x.shape)
    _run(builders.normalisation_by, (tuple(x.shape), epsilon), x, mean, variance, gamma, beta, y)
    return y


def normalise_gradient(
    x: Tensor, mean: Tensor, variance: Tensor, gamma: Tensor, grad: Tensor, epsilon: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Of `normalise`, for x, γ and β."""
    results = empty_map(x.shape), paddle.empty(gamma.shape, "float32"), paddle.empty(gamma.shape, "float32")
    _run(builders.normalisation, (tuple(x.shape), epsilon, True), x, mean, variance, grad, gamma, *results)
    return results


def weighted_sum(
    x: Tensor, others: Sequence[Tensor], factor: Tensor | None = None, relu: bool = False, in_place: bool = False
) -> Tensor:
    """`x · factor + others[0] + …`, of maps of one shape and vectors (C,); without a factor others[0] is a map.

    `in_place`: the result takes the place of x.
    """
    tensors = others if factor is None else [factor, *others]
    vectors = tuple(other.ndim == 1 for other in tensors[1:])
    y = x if in_place else empty_map(x.shape)
    _run(builders.weighted_sum, (tuple(x.shape), factor is not None, vectors, relu), x, *tensors, y)
    return y


def by_picture(
    x: Tensor, numbers: Tensor, product: bool, addend: Tensor | None = None, in_place: bool = False
) -> Tensor:
    """`x: (N, H, W, C)` times or plus `numbers: (N, C)`, plus another map; `in_place`: it takes the place of x."""
    y = x if in_place else empty_map(x.shape)
    maps = (x, numbers) if addend is None else (x, numbers, addend)
    _run(builders.by_picture, (tuple(x.shape), product, addend is not None), *maps, y)
    return y


def activate(x: Tensor, algorithm: int, in_place: bool = False) -> Tensor:
    """`builders.RELU` or `builders.GELU` of every number; `in_place`: they take the place of x."""
    y = x if in_place else empty_map(x.shape)
    _run(builders.activation, (tuple(x.shape), algorithm, False), x, y)
    return y


def activate_gradient(x: Tensor, grad: Tensor, algorithm: int) -> Tensor:
    """Of `activate`; for the ReLU `x` is its output."""
    result = empty_map(x.shape)
    _run(builders.activation, (tuple(x.shape), algorithm, True), x, grad, result)
    return result


def convolve_first(x: Tensor, kernel: Tensor, geometry: Geometry) -> Tensor:
    """`x` with its first channels convolved; the kernel has as many outputs as inputs and keeps the map's size."""
    y, shape = x.clone(), (*x.shape[:3], kernel.shape[1])
    _run(builders.convolution, (shape, tuple(kernel.shape), geometry, x.shape[3], False), x, kernel, y)
    return y


def input_gradient_first(grad: Tensor, kernel: Tensor, geometry: Geometry) -> Tensor:
    """Of `convolve_first`, for `x`."""
    result, shape = grad.clone(), (*grad.shape[:3], kernel.shape[1])
    _run(builders.input_gradient, (shape, tuple(kernel.shape), geometry, grad.shape[3]), grad, kernel, result)
    return result


def kernel_gradient_first(x: Tensor, grad: Tensor, kernel_shape: Sequence[int], geometry: Geometry) -> Tensor:
    """Of `convolve_first`, for the kernel."""
    result = paddle.empty(kernel_shape, "float32")
    sizes = ((*x.shape[:3], kernel_shape[1]), tuple(kernel_shape), geometry, x.shape[3])
    _run(builders.kernel_gradient, sizes, x, grad, result)
    return result


def channels_last(x: Tensor) -> Tensor:
    """A contiguous (N, C, H, W) → (N, H, W, C)."""
    batch, channels, height, width = x.shape
    y = empty_map([batch, height, width, channels])
    _run(builders.layout, ((batch, height, width, channels),), x, y)
    return y


def supports_convolution(shape: Sequence[int], kernel_shape: Sequence[int], geometry: Geometry, pitch: int = 0) -> bool:
    """Whether `convolve`, or with `pitch` channels in all `convolve_first`, and its gradients are fast for a map.

    `shape`: (N, H, W, C), of the channels that are convolved.
    """
    sizes, found = (tuple(shape), tuple(kernel_shape), geometry, pitch), library()
    try:
        for build, more in (
            (builders.convolution, (False,)),
            (builders.input_gradient, ()),
            (builders.kernel_gradient, ()),
        ):
            found.primitive((build, *sizes, *more), build, *sizes, *more)
    except UnsupportedError:
        return False
    return True


def _run(build: Callable[..., Primitive], sizes: tuple, *tensors: Tensor) -> None:
    found = library()
    found.primitive((build, *sizes), build, *sizes)(*[tensor.data_ptr() for tensor in tensors])
