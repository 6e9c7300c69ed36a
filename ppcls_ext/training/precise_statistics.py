"""Running statistics computed anew from many images at once, for the weights that are evaluated and exported.

A training normalises each batch by its own statistics, and keeps their running mean. That mean fits another network
than the one that is exported: images of a kind that is in few batches are normalised by their own large variance while
they are learnt, and by the small mean of all in an evaluation. What is a little too large behind one layer is larger
behind the next one, and in a deep network the outputs for such images come to a million. Here each layer gets the
statistics of the maps that the layers before it give in an evaluation, over all images at once, so that no kind of
image among them is amplified.

Wu and Johnson, "Rethinking 'Batch' in BatchNorm" (arXiv 2105.07576, section 3), call statistics that are computed after
a training precise; theirs are the mean over batches.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import paddle
from paddle import Tensor, nn

from ppcls_ext.config.recipe import STATISTICS_IMAGES
from ppcls_ext.hosts.paddleclas.image_lists import unmixed
from ppcls_ext.hosts.paddleclas.loader_processes import batches_of
from ppcls_ext.models.backbone import Backbone
from ppcls_ext.models.fasternet import Stage
from ppcls_ext.progress import progress, ticks
from ppcls_ext.training.first_batch import as_before

#: The most batches whose maps are kept where no number of images is given: a step keeps all maps of one batch.
BATCHES = 16


def first_images(loader: Any, images: int | None) -> list[Tensor]:
    """The images of the first batches of a training, (N, C, H, W) each, augmented, and not mixed with each other.

    Args:
        loader: Paddle's.
        images: how many are wanted; None for `STATISTICS_IMAGES`, or `BATCHES` batches where these are fewer.

    Returns:
        As many batches as hold them, or all of an epoch that has fewer.
    """
    chunks: list[Tensor] = []
    with unmixed(loader):
        for batch in batches_of(loader):
            chunks.append(paddle.to_tensor(batch[0]))
            if len(chunks) >= batches_wanted(loader, len(chunks[0]), images):
                break
    return chunks


def batches_wanted(loader: Any, size: int, images: int | None) -> int:
    """How many batches of a loader, of `size` images each, `first_images` takes."""
    count = math.ceil((images or STATISTICS_IMAGES) / size)
    return min(count, len(loader), BATCHES if images is None else count)


@paddle.no_grad()
def compute_statistics(network: Backbone, chunks: Sequence[Tensor]) -> None:
    """Gives the batch normalisations that learn the statistics of these images, in place.

    Args:
        network: in train mode, frozen layers in eval mode; left so, and nothing else of it changes.
        chunks: images (N, C, H, W) of at least one batch.
    """
    units = [(unit, learning_norms(unit)) for part in network.parts() for layer in part for unit in in_order(layer)]
    last = max((index for index, (_, norms) in enumerate(units) if norms), default=-1)
    with as_before(network), progress("computing running statistics anew", "layers") as report:
        tick = ticks(report, last + 1)
        for index, (unit, norms) in enumerate(units[: last + 1]):
            if norms:
                _observe(unit, norms, chunks)
            if index < last:
                chunks = [unit(chunk) for chunk in chunks]
            tick()


def in_order(layer: nn.Layer) -> Iterator[nn.Layer]:
    """The layers that run one behind the other inside a layer, or the layer itself where they do not."""
    inner = layer.blocks if isinstance(layer, Stage) else layer
    if isinstance(inner, nn.Sequential):
        for child in inner:
            yield from in_order(child)
    else:
        yield inner


def learning_norms(layer: nn.Layer) -> list[Any]:
    """The batch normalisations inside that are in train mode."""
    kinds = nn.layer.norm._BatchNormBase
    return [norm for norm in layer.sublayers(include_self=True) if isinstance(norm, kinds) and norm.training]


def _observe(unit: nn.Layer, norms: Sequence[Any], chunks: Sequence[Tensor]) -> None:
    """Sets the statistics of normalisations that stand side by side in a layer to those of all its inputs."""
    momenta = [norm._momentum for norm in norms]
    sums = [np.zeros((2, *norm._mean.shape)) for norm in norms]
    count = sum(len(chunk) for chunk in chunks)
    unit.train()
    try:
        for norm in norms:
            norm._momentum = 0.0  # the running statistics become those of a batch
        for chunk in chunks:
            unit(chunk)
            for norm, (means, squares) in zip(norms, sums):
                mean, variance = (tensor.numpy().astype("float64") for tensor in (norm._mean, norm._variance))
                means += mean * (len(chunk) / count)
                squares += (variance + mean**2) * (len(chunk) / count)
    finally:
        for norm, momentum in zip(norms, momenta):
            norm._momentum = momentum
        unit.eval()
    for norm, (means, squares) in zip(norms, sums):
        for tensor, value in ((norm._mean, means), (norm._variance, (squares - means**2).clip(min=0.0))):
            tensor.set_value(value.astype("float32"))
