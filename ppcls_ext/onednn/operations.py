"""Convolution, batch normalisation, sums and activations of channels-last maps by oneDNN, with their gradients.

Plain functions from contiguous tensors, maps (N, H, W, C), kernels and vectors of Paddle's shapes, to new tensors. No
gradient is recorded. Maps are float32 or bfloat16 and give maps of their kind; all else is float32. Where oneDNN has no
fast implementation Paddle's own operations compute the same, of bfloat16 maps these functions themselves in float32.
Memory is handed to oneDNN by `_run`, which raises `PpclsExtError` where a tensor has gaps or an unexpected size.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import paddle
from paddle import Tensor

from ppcls_ext.onednn import builders, by_paddle, half_convolution, products
from ppcls_ext.onednn.arena import empty, empty_map
from ppcls_ext.onednn.bfloat16 import to_bfloat16, to_float32
from ppcls_ext.onednn.builders import Geometry
from ppcls_ext.onednn.find import loaded
from ppcls_ext.onednn.library import UnsupportedError
from ppcls_ext.onednn.memory import is_half
from ppcls_ext.onednn.run import run
from ppcls_ext.onednn.statistics import LONGEST, mean_and_variance, normalisation_sums

#: Numbers in a map from which on copying it is worth while to reach a faster gradient.
LARGE = 1 << 14
#: Pixels from which on the gradients of γ and β are sums of sums: there one long float32 sum loses the fifth digit, and
#: sums of sums, which take twice as long, are worth it for the few maps of a net that are so large.
LONG_SUM = 1 << 16
#: Channels from which on oneDNN's normalisations of a forward pass are slow, which go down one channel after the other.
WIDE = 512
#: Channels in a vector: oneDNN's normalisations of other numbers of them take up to ten times as long with AVX-512.
CHANNELS = 16
#: Maps and vectors that one primitive adds; oneDNN takes 32 operations behind one at most.
MOST_ADDENDS = 24


def convolve(x: Tensor, kernel: Tensor, bias: Tensor | None, geometry: Geometry) -> Tensor:
    """`x: (N, H, W, C)`, `kernel: (O, C / groups, k, k)`, `bias: (O,)` → (N, Ho, Wo, O)."""
    shape, kernel_shape = tuple(x.shape), tuple(kernel.shape)
    y = empty_map(geometry.output_shape(shape, kernel_shape), x.element_size())
    if products.is_product(kernel_shape, geometry) and products.pointwise(x, kernel, bias, y):
        return y
    if is_half(x):
        found = half_convolution.convolve(x, kernel, bias, geometry)
        return to_bfloat16(convolve(to_float32(x), _rounded(kernel), bias, geometry)) if found is None else found
    sees_all = bias is None and products.sees_all(shape, kernel_shape, geometry)
    if sees_all and products.unfolded(x, kernel, geometry, y):
        return y
    biases = () if bias is None else (bias,)
    if not run(builders.convolution, (shape, kernel_shape, geometry, 0, bias is not None), x, kernel, *biases, y):
        y = by_paddle.convolve(x, kernel, bias, geometry)
    return y


def input_gradient(grad: Tensor, kernel: Tensor, shape: Sequence[int], geometry: Geometry) -> Tensor:
    """Of `convolve`: `grad: (N, Ho, Wo, O)` → (N, H, W, C) = `shape`."""
    result, sizes = empty_map(shape, grad.element_size()), (tuple(shape), tuple(kernel.shape), geometry, 0)
    if products.is_product(kernel.shape, geometry) and products.pointwise_input_gradient(grad, kernel, result):
        return result
    if is_half(grad):
        found = half_convolution.input_gradient(grad, kernel, shape, geometry)
        if found is None:
            found = to_bfloat16(input_gradient(to_float32(grad), _rounded(kernel), shape, geometry))
        return found
    sees_all = products.sees_all(shape, kernel.shape, geometry)
    if sees_all and products.unfolded_input_gradient(grad, kernel, geometry, result):
        return result
    if not run(builders.convolution_input_gradient, sizes, grad, kernel, result):
        result = by_paddle.convolution_gradients(paddle.zeros(shape, "float32"), kernel, grad, geometry)[0]
    return result


def kernel_gradient(x: Tensor, grad: Tensor, kernel_shape: Sequence[int], geometry: Geometry) -> Tensor:
    """Of `convolve`: `x: (N, H, W, C)`, `grad: (N, Ho, Wo, O)` → the kernel's shape."""
    if kernel_shape[1] == 1 and tuple(x.shape[1:]) == (1, 1, kernel_shape[0]) and grad.shape[1:3] == [1, 1]:
        # ten times faster than oneDNN
        x, grad = to_float32(x), to_float32(grad)
        return _kernel_gradient_of_one_pixel(x, grad, kernel_shape, geometry.padding)
    if geometry.stride > 1 and products.is_product(kernel_shape, geometry._replace(stride=1)) and x.shape[3] < 16:
        # oneDNN 3.6.2 (cpu/x64/jit_uni_1x1_conv_utils.hpp) writes beyond its scratch memory there
        x, geometry = x[:, :: geometry.stride, :: geometry.stride].contiguous(), Geometry()
    lacking = kernel_shape[2] + geometry.stride - 1 - x.shape[1]
    if lacking > 0 and kernel_shape[1] == 1 and kernel_shape[0] == geometry.groups and math.prod(x.shape) >= LARGE:
        # for depthwise kernels that are higher than the map oneDNN takes ten times as long; zeros change nothing
        x = _with_zeros(x, lacking)
        grad = _with_zeros(grad, geometry.output_shape(x.shape, kernel_shape)[1] - grad.shape[1])
    result, sizes = empty_map(kernel_shape), (tuple(x.shape), tuple(kernel_shape), geometry, 0)
    is_product = products.is_product(kernel_shape, geometry) and products.has_product_gradient(x)
    if is_product and products.pointwise_kernel_gradient(x, grad, result):
        return result
    if is_half(x):
        found = half_convolution.kernel_gradient(x, grad, kernel_shape, geometry)
        return kernel_gradient(to_float32(x), to_float32(grad), kernel_shape, geometry) if found is None else found
    sees_all = products.sees_all(x.shape, kernel_shape, geometry, products.FEWEST_OF_GRADIENT)
    if sees_all and products.unfolded_kernel_gradient(x, grad, geometry, result):
        return result
    if not run(builders.convolution_kernel_gradient, sizes, x, grad, result):
        result = by_paddle.convolution_gradients(x, paddle.zeros(kernel_shape, "float32"), grad, geometry)[1]
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
    return paddle.concat([x, _zeros(x.dtype, x.shape[0], count, *x.shape[2:])], 1) if count else x


@functools.lru_cache(maxsize=64)
def _zeros(dtype: paddle.dtype, *shape: int) -> Tensor:
    return paddle.zeros(shape, dtype)


def normalise(x: Tensor, gamma: Tensor, beta: Tensor, epsilon: float) -> tuple[Tensor, Tensor, Tensor]:
    """Batch normalisation by the batch's statistics; also returns these, (C,) each, the variance biased."""
    # of bfloat16 maps, which have 8 bits, one long sum is exact enough
    is_direct = is_half(x) or (math.prod(x.shape[:3]) <= LONGEST and x.shape[3] < WIDE)
    if is_direct and not _is_odd(x):
        y, mean, variance = empty_map(x.shape, x.element_size()), *(empty(gamma.shape) for _ in range(2))
        if run(builders.normalisation, (tuple(x.shape), epsilon, False), x, gamma, beta, y, mean, variance):
            return y, mean, variance
    mean, variance = mean_and_variance(x)
    return normalise_by(x, mean, variance, gamma, beta, epsilon), mean, variance


def normalise_by(x: Tensor, mean: Tensor, variance: Tensor, gamma: Tensor, beta: Tensor, epsilon: float) -> Tensor:
    """As `normalise`, by statistics that are known."""
    y = empty_map(x.shape, x.element_size())
    if x.shape[3] < WIDE and not _is_odd(x):
        is_done = run(builders.normalisation_by, (tuple(x.shape), epsilon), x, mean, variance, gamma, beta, y)
    else:
        factor = gamma * paddle.rsqrt(variance + epsilon)
        is_done = run(builders.shifted_and_scaled, (tuple(x.shape),), x, -mean, factor, beta, y)
    if not is_done:
        y = _alike(x, by_paddle.normalise_by(to_float32(x), mean, variance, gamma, beta, epsilon))
    return y


def _is_odd(x: Tensor) -> bool:
    """Whether oneDNN's normalisations of a map have no fast kernel: its channels fill no vectors."""
    return x.shape[3] % CHANNELS > 0


def normalise_gradient(
    x: Tensor, mean: Tensor, variance: Tensor, gamma: Tensor, grad: Tensor, epsilon: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Of `normalise`, for x, γ and β."""
    pixels = math.prod(x.shape[:3])
    is_direct = not _is_odd(x) if is_half(x) else pixels < LONG_SUM
    if is_direct:
        results = empty_map(x.shape, x.element_size()), *(empty(gamma.shape) for _ in range(2))
        if run(builders.normalisation, (tuple(x.shape), epsilon, True), x, mean, variance, grad, gamma, *results):
            return results
    gamma_grad, beta_grad = normalisation_sums(x, grad, mean, variance, epsilon)
    inverse = paddle.rsqrt(variance + epsilon)
    # γ / σ · (dy − (dβ + (x − μ) / σ · dγ) / pixels), in one pass
    vectors = -mean, inverse * gamma_grad / -pixels, beta_grad / -pixels, gamma * inverse
    x_grad = empty_map(x.shape, x.element_size())
    if not run(builders.normalisation_gradient, (tuple(x.shape),), x, *vectors[:3], grad, vectors[3], x_grad):
        x_grad = _alike(x, by_paddle.scaled_twice(to_float32(x), *vectors[:3], to_float32(grad), vectors[3]))
    return x_grad, gamma_grad, beta_grad


def weighted_sum(
    x: Tensor, others: Sequence[Tensor], factor: Tensor | None = None, relu: bool = False, in_place: bool = False
) -> Tensor:
    """`x · factor + others[0] + …`, of maps of one shape and vectors (C,); without a factor others[0] is a map.

    `in_place`: the result takes the place of x.
    """
    if len(others) > MOST_ADDENDS:
        x = weighted_sum(x, others[:MOST_ADDENDS], factor, False, in_place)
        return weighted_sum(x, others[MOST_ADDENDS:], None, relu, in_place=True)
    tensors = others if factor is None else [factor, *others]
    vectors = tuple(other.ndim == 1 for other in tensors[1:])
    y = x if in_place else empty_map(x.shape, x.element_size())
    if not run(builders.weighted_sum, (tuple(x.shape), factor is not None, vectors, relu), x, *tensors, y):
        others = [to_float32(other) for other in others]
        paddle.assign(_alike(x, by_paddle.weighted_sum(to_float32(x), others, factor, relu)), y)
    return y


def by_picture(
    x: Tensor, numbers: Tensor, product: bool, addend: Tensor | None = None, in_place: bool = False
) -> Tensor:
    """`x: (N, H, W, C)` times or plus `numbers: (N, C)`, plus another map; `in_place`: it takes the place of x."""
    y = x if in_place else empty_map(x.shape, x.element_size())
    maps = (x, numbers) if addend is None else (x, numbers, addend)
    if not run(builders.by_picture, (tuple(x.shape), product, addend is not None), *maps, y):
        addend = None if addend is None else to_float32(addend)
        paddle.assign(_alike(x, by_paddle.by_picture(to_float32(x), numbers, product, addend)), y)
    return y


def activate(x: Tensor, algorithm: int, in_place: bool = False) -> Tensor:
    """`builders.RELU` or `builders.GELU` of every number; `in_place`: they take the place of x."""
    y = x if in_place else empty_map(x.shape, x.element_size())
    if not run(builders.activation, (tuple(x.shape), algorithm, False), x, y):
        paddle.assign(_alike(x, by_paddle.activate(to_float32(x), algorithm == builders.RELU)), y)
    return y


def activate_gradient(x: Tensor, grad: Tensor, algorithm: int) -> Tensor:
    """Of `activate`; for the ReLU `x` is its output."""
    result = empty_map(x.shape, x.element_size())
    if not run(builders.activation, (tuple(x.shape), algorithm, True), x, grad, result):
        result = by_paddle.activate_gradient(to_float32(x), to_float32(grad), algorithm == builders.RELU)
        result = _alike(x, result)
    return result


def convolve_first(x: Tensor, kernel: Tensor, geometry: Geometry) -> Tensor:
    """`x` with its first channels convolved; the kernel has as many outputs as inputs and keeps the map's size."""
    y, mixed = x.clone(), kernel.shape[1]
    sizes = ((*x.shape[:3], mixed), tuple(kernel.shape), geometry, x.shape[3], False)
    if run(builders.convolution, sizes, x, kernel, y, all_channels=False):
        return y
    if is_half(x):
        y = _with_first(y, to_bfloat16(convolve(_first(x, mixed), _rounded(kernel), None, geometry)))
    else:
        y[:, :, :, :mixed] = by_paddle.convolve(x[:, :, :, :mixed], kernel, None, geometry)
    return y


def input_gradient_first(grad: Tensor, kernel: Tensor, geometry: Geometry) -> Tensor:
    """Of `convolve_first`, for `x`."""
    result, mixed = grad.clone(), kernel.shape[1]
    sizes = ((*grad.shape[:3], mixed), tuple(kernel.shape), geometry, grad.shape[3])
    if run(builders.convolution_input_gradient, sizes, grad, kernel, result, all_channels=False):
        return result
    if is_half(grad):
        first = _first(grad, mixed)
        result = _with_first(result, to_bfloat16(input_gradient(first, _rounded(kernel), first.shape, geometry)))
    else:
        first = grad[:, :, :, :mixed].contiguous()
        result[:, :, :, :mixed] = by_paddle.convolution_gradients(paddle.zeros_like(first), kernel, first, geometry)[0]
    return result


def kernel_gradient_first(x: Tensor, grad: Tensor, kernel_shape: Sequence[int], geometry: Geometry) -> Tensor:
    """Of `convolve_first`, for the kernel."""
    mixed = kernel_shape[1]
    if is_half(x):
        result = half_convolution.kernel_gradient(x, grad, kernel_shape, geometry, x.shape[3])
        if result is None:
            result = kernel_gradient(_first(x, mixed), _first(grad, mixed), kernel_shape, geometry)
        return result
    result, sizes = empty(kernel_shape), ((*x.shape[:3], mixed), tuple(kernel_shape), geometry, x.shape[3])
    if not run(builders.convolution_kernel_gradient, sizes, x, grad, result, all_channels=False):
        x, grad = (value[:, :, :, :mixed].contiguous() for value in (x, grad))
        result = by_paddle.convolution_gradients(x, paddle.zeros(kernel_shape, "float32"), grad, geometry)[1]
    return result


def channels_last(x: Tensor) -> Tensor:
    """A contiguous (N, C, H, W) → (N, H, W, C)."""
    batch, channels, height, width = x.shape
    y = empty_map([batch, height, width, channels], x.element_size())
    if not run(builders.layout, ((batch, height, width, channels),), x, y):
        y = by_paddle.channels_last(x)
    return y


def supports_convolution(shape: Sequence[int], kernel_shape: Sequence[int], geometry: Geometry, pitch: int = 0) -> bool:
    """Whether `convolve`, or with `pitch` channels in all `convolve_first`, and its gradients are fast for a map.

    `shape`: (N, H, W, C), of the channels that are convolved.
    """
    sizes, found = (tuple(shape), tuple(kernel_shape), geometry, pitch), loaded()
    try:
        for build, more in (
            (builders.convolution, (False,)),
            (builders.convolution_input_gradient, ()),
            (builders.convolution_kernel_gradient, ()),
        ):
            found.primitive((build, *sizes, *more), build, *sizes, *more)
    except UnsupportedError:
        return False
    return True


def _alike(x: Tensor, result: Tensor) -> Tensor:
    """A float32 result, rounded where the map x is bfloat16."""
    return to_bfloat16(result.contiguous()) if is_half(x) else result


def _rounded(kernel: Tensor) -> Tensor:
    """A kernel of the numbers that bfloat16 has, float32."""
    return to_float32(to_bfloat16(kernel.contiguous()))


def _first(x: Tensor, channels: int) -> Tensor:
    """The first channels of a bfloat16 map, float32."""
    return to_float32(x)[:, :, :, :channels].contiguous()


def _with_first(x: Tensor, first: Tensor) -> Tensor:
    """`x` with other first channels."""
    return paddle.concat([first, x[:, :, :, first.shape[3] :]], 3)
