"""From fused weights back to a form with branches that can be trained.

Most published weights of these nets are fused, and a plain convolution without batch normalisation fine-tunes badly.
`unfuse` gives a training-form model that computes the same function: the first conv branch carries the fused kernel,
its batch normalisation is set from calibration images so that the function is kept in train mode as well, and the
other branches start small and learn.

With fused kernel K and bias b, and small scales t_i for the other branches' (random) kernels K_i, the first kernel is
`K − Σ t_i·K_i`: the sum of branches is K again, exactly, however large the t_i are. With means m_i and variances v_i of
the branches' outputs over the calibration images, `γ_i = t_i·√(v_i + ε)` with t = 1 for the first branch, `β_i = 0`,
and the first branch's β makes up for all means.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Union

import numpy as np
import paddle
from paddle import Tensor, nn

from ppcls_ext.errors import PpclsExtError
from ppcls_ext.onednn.convolution import conv2d
from ppcls_ext.reparam.algebra import Branch, identity_kernel, pad_kernel
from ppcls_ext.reparam.fuse import reparameterizable_layers
from ppcls_ext.reparam.reparameterizable import Reparameterizable

#: Norm of another branch's kernel, after scaling, relative to the fused kernel's, per output channel.
SMALL = 0.01


Batches = Union[Tensor, np.ndarray, Iterable[Union[Tensor, np.ndarray, Sequence[Tensor]]]]


def unfuse(model: nn.Layer, batches: Batches) -> nn.Layer:
    """A training-form model with the function of a fused one.

    Args:
        model: fused, built by one of this project's factories; it is left as it was.
        batches: calibration images, prepared as for training: tensors or arrays (N, 3, H, W), or a loader's lists
            that begin with one; some hundred images are enough. One batch may come alone.

    Returns:
        The unfused model, in train mode. In eval mode its output equals the fused model's up to rounding.

    Raises:
        PpclsExtError: the model is not fused or not from a factory, or there are no batches.
    """
    fused_layers = list(reparameterizable_layers(model))
    if not fused_layers or not all(layer.is_repped for layer in fused_layers) or not hasattr(model, "blueprint"):
        raise PpclsExtError(
            "unfuse needs a fused model built by one of this project's factories: build it with fused=True and load "
            "the fused weights"
        )
    unfused = model.blueprint(fused=False)
    unfused_layers = list(reparameterizable_layers(unfused))
    state = unfused.state_dict()
    for name, tensor in model.state_dict().items():
        if name in state and state[name].shape == tensor.shape:
            state[name].set_value(tensor)

    pairs = [_Pair(fused, unfused) for fused, unfused in zip(fused_layers, unfused_layers)]
    _calibrate(model, pairs, batches)
    for pair in pairs:
        pair.set_norms()
    unfused.train()
    return unfused


class _Pair:
    """A fused layer, its unfused twin, and the statistics of the twin's branches on the fused layer's inputs."""

    def __init__(self, fused: Reparameterizable, unfused: Reparameterizable) -> None:
        self.fused, self.unfused = fused, unfused
        self.branches = unfused.branches()
        kernel, self.bias = fused.equivalent_kernel()
        self.scales = [paddle.ones_like(self.bias)]
        for branch in self.branches[1:]:
            other = pad_kernel(_kernel(branch, unfused), unfused.kernel_size)
            scale = SMALL * _channel_norms(kernel).clip(min=float(_channel_norms(kernel).mean()) / 10)
            self.scales.append(scale / _channel_norms(other))
            kernel = kernel - other * self.scales[-1].reshape([-1, 1, 1, 1])
        first = self.branches[0].kernel
        assert first is not None  # an identity is never the only branch, nor the first
        first.set_value(kernel.astype(first.dtype))
        self.count = 0
        zeros = paddle.zeros_like(self.bias)
        self.sums = [[zeros, zeros] for _ in self.branches]

    def observe(self, layer: nn.Layer, inputs: tuple[Any, ...]) -> None:
        """Adds one batch of inputs (a forward pre-hook of the fused layer)."""
        x = inputs[0]
        for sums, branch in zip(self.sums, self.branches):
            y = x
            if branch.kernel is not None:
                margin = (self.unfused.kernel_size - branch.kernel.shape[-1]) // 2
                padding = self.unfused.padding - margin
                y = conv2d(x, branch.kernel, None, self.unfused.stride, padding, self.unfused.groups)
            y = y.transpose([1, 0, 2, 3]).flatten(1).astype("float64")
            sums[0] = sums[0] + y.sum(axis=1)
            sums[1] = sums[1] + y.square().sum(axis=1)
        self.count += y.shape[1]

    def set_norms(self) -> None:
        """Sets the batch normalisations of the unfused layer from what was observed."""
        beta = self.bias
        for (total, squares), branch, scale in zip(self.sums, self.branches, self.scales):
            mean = total / self.count
            variance = (squares / self.count - mean.square()).clip(min=0.0)
            beta = beta + mean * scale
            norm = branch.norm
            for tensor, value in (
                (norm.weight, scale * paddle.sqrt(variance + norm._epsilon)),
                (norm.bias, paddle.zeros_like(mean)),
                (norm._mean, mean),
                (norm._variance, variance),
            ):
                tensor.set_value(value.astype(tensor.dtype))
        bias = self.branches[0].norm.bias
        bias.set_value(beta.astype(bias.dtype))


@paddle.no_grad()
def _calibrate(model: nn.Layer, pairs: list[_Pair], batches: Batches) -> None:
    if isinstance(batches, (Tensor, np.ndarray)):
        batches = [batches]
    training, channels = model.training, getattr(model, "in_channels", 3)
    model.eval()
    hooks = [pair.fused.register_forward_pre_hook(pair.observe) for pair in pairs]
    try:
        for batch in batches:
            images: Any = batch[0] if isinstance(batch, (list, tuple)) else batch
            if images.ndim != 4 or images.shape[1] != channels:
                raise PpclsExtError(f"a calibration batch is {list(images.shape)}: expected (N, {channels}, H, W)")
            model(paddle.to_tensor(images) if isinstance(images, np.ndarray) else images)
    finally:
        for hook in hooks:
            hook.remove()
        if training:
            model.train()
    if not all(pair.count for pair in pairs):
        raise PpclsExtError(f"unfuse got no calibration images: give at least one batch (N, {channels}, H, W)")


def _kernel(branch: Branch, layer: Reparameterizable) -> Tensor:
    if branch.kernel is None:
        return identity_kernel(layer.out_channels, layer.groups, 1)
    return branch.kernel.astype("float64")


def _channel_norms(kernel: Tensor) -> Tensor:
    return kernel.square().sum(axis=[1, 2, 3]).sqrt()
