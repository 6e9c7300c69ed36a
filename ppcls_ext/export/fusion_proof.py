"""The fused form of a model, proved equal to the sums of its branches, layer by layer and as a whole."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterable, Mapping
from functools import partial

import numpy as np
import paddle
from paddle import Tensor, nn

from ppcls_ext.errors import PpclsExtError
from ppcls_ext.export.comparison import (
    NOISE_FACTOR,
    NUDGE,
    TINY,
    TOLERANCE,
    ByKind,
    Inputs,
    largest_difference,
    nudged,
    output_difference,
    random_images,
    require_small,
)
from ppcls_ext.models.backbone import Backbone
from ppcls_ext.reparam.fuse import reparameterizable_layers
from ppcls_ext.reparam.reparameterizable import Reparameterizable

logger = logging.getLogger("ppcls_ext")


@paddle.no_grad()
def paddle_logits(
    model: nn.Layer, inputs: Mapping[str, Iterable[np.ndarray]], tick: Callable[[], None]
) -> dict[str, np.ndarray]:
    """Returns the logits of a model in Paddle, run image by image, so that many samples need no more memory than one.

    Args:
        model: in eval mode.
        inputs: images.
        tick: called after each image.

    Raises:
        PpclsExtError: the model does not return (N, classes), or the numbers are not finite.
    """
    logits = {kind: np.concatenate([_run(model, image, tick) for image in images]) for kind, images in inputs.items()}
    if not all(np.isfinite(values).all() for values in logits.values()):
        raise PpclsExtError("the model's logits are not finite: the weights are damaged, or training diverged")
    return logits


def _run(model: nn.Layer, image: np.ndarray, tick: Callable[[], None]) -> np.ndarray:
    logits = model(paddle.to_tensor(image[None]))
    if not isinstance(logits, Tensor) or logits.ndim != 2:
        got = f"a tensor {tuple(logits.shape)}" if isinstance(logits, Tensor) else f"a {type(logits).__name__}"
        raise PpclsExtError(
            f"the model returns {got}, expected logits (N, classes): build it without return_stages and return_patterns"
        )
    tick()
    return logits.numpy()


def rounding_noise(model: nn.Layer, inputs: Inputs, logits: ByKind, tick: Callable[[], None]) -> float:
    """Returns how far the logits move when the input moves by `NUDGE`: about 1e-6 in healthy networks.

    Args:
        model: in eval mode.
        inputs: images.
        logits: of the model, for these images.
        tick: called after each image.
    """
    random = np.random.default_rng(1)
    moved = {kind: map(partial(nudged, random=random), images) for kind, images in inputs.items()}
    return largest_difference(paddle_logits(model, moved, tick), logits)


def branch_outputs(layer: Reparameterizable, x: Tensor) -> list[Tensor]:
    """Returns the output of each branch of an unfused layer for `x: (N, C, H, W)`, as the layer is defined."""
    outputs = []
    for kernel, norm in layer.branches():
        y = x
        if kernel is not None:
            padding = layer.padding_of(kernel.shape[-1])
            y = nn.functional.conv2d(x, kernel, None, layer.stride, padding, layer.dilation, layer.groups)
        outputs.append(norm(y))
    return outputs


class LayerComparison:
    """Makes an unfused layer sum its branches one by one, as it is defined, and compares the sum with the fused layer.

    In eval mode an unfused layer runs its equivalent convolution, so without this the fusion would be compared with
    itself. The two are compared on equal inputs, which stays sharp where the whole network magnifies rounding errors
    (an untrained RepVGG_D2se turns 1e-7 into other logits altogether).

    Args:
        layer: unfused, in eval mode; it is changed.
        fused: the same layer, fused.
        name: of the layer, for the error.
    """

    def __init__(self, layer: Reparameterizable, fused: Reparameterizable, name: str) -> None:
        self.fused = fused
        self.name = name
        #: The largest so far, as a part of the largest value in a branch.
        self.difference = 0.0
        layer.register_forward_pre_hook(self._compare)
        # the layer goes on with the sum that was compared
        layer.run_fused = lambda x: self._sum  # type: ignore[method-assign]

    def _compare(self, layer: Reparameterizable, inputs: tuple[Tensor, ...]) -> None:
        (x,) = inputs
        outputs = branch_outputs(layer, x)
        self._sum = sum(outputs[1:], outputs[0])
        scale = max(float(output.abs().max()) for output in outputs)
        difference = float((self.fused.run_fused(x) - self._sum).abs().max()) / max(scale, TINY)
        require_small(f"the fused and the unfused layer {self.name}".rstrip(), difference)
        self.difference = max(self.difference, difference)


def branch_form(model: nn.Layer, fused: nn.Layer) -> tuple[nn.Layer, list[LayerComparison]]:
    """Returns a deep copy of `model` in eval mode that sums its branches and compares each layer with `fused`.

    Returns:
        The copy, which raises PpclsExtError where a layer differs, and its comparisons.
    """
    reference = copy.deepcopy(model)
    reference.eval()
    fused_layers = dict(fused.named_sublayers(include_self=True))
    comparisons = [
        LayerComparison(layer, fused_layers[name], name)
        for name, layer in reference.named_sublayers(include_self=True)
        if isinstance(layer, Reparameterizable) and not layer.is_repped
    ]
    return reference, comparisons


def fuse_with_proof(net: Backbone) -> None:
    """Fuses a headless net in place, in eval mode, and compares every block and every map with the sums of branches.

    Raises:
        PpclsExtError: a block or a map differs, or a branch is left.
    """
    net.eval()
    if all(layer.is_repped for layer in reparameterizable_layers(net)):
        return
    unfused = copy.deepcopy(net)
    for layer in list(reparameterizable_layers(net)):
        layer.re_parameterize()
    require_no_branches(net)
    reference, comparisons = branch_form(unfused, net)
    differences = []
    for kind, image in random_images(1, 64, 96).items():
        x = paddle.to_tensor(image)
        expected, got = _maps(reference, x), _maps(net, x)
        noise = output_difference(_maps(net, x * (1 + NUDGE * paddle.uniform(x.shape, min=-1.0, max=1.0))), got)
        differences.append(output_difference(got, expected))
        require_small(
            f"the fused and the unfused {net.arch}'s maps on {kind}",
            differences[-1],
            max(TOLERANCE, NOISE_FACTOR * noise),
        )
    layers = max(comparison.difference for comparison in comparisons)
    logger.info(
        "%s: %d blocks fused; from the sums of their branches they differ by %.1e, the maps by %.1e (relative)",
        net.arch,
        len(comparisons),
        layers,
        max(differences),
    )


def require_no_branches(net: Backbone) -> None:
    """Raises PpclsExtError where a block of `net` is not fused or still contains a training branch."""
    for name, layer in net.named_sublayers(include_self=True):
        if not hasattr(layer, "is_repped"):
            continue
        left = [branch for branch in layer.branch_names if branch != layer.fused_name and branch in layer._sub_layers]
        if left or not layer.is_repped:
            raise PpclsExtError(f"{net.arch}: {name or 'the net'} holds training branches still; nothing was written")


@paddle.no_grad()
def _maps(net: Backbone, x: Tensor) -> list[np.ndarray]:
    return [map_.numpy() for map_ in net(x)]
