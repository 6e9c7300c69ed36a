"""Says where a network answers far better by a batch's statistics than by its running ones, which evaluations take.

A few updates do not bring the running statistics near to what the weights want, and an average of weights has others
than the average of their statistics: a network that has learnt much then looks as if it had learnt nothing
(apple/ml-mobileone, issue 19).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import paddle
import paddle.distributed as dist
from paddle import nn

from ppcls_ext.data.lists import MULTI_LABEL
from ppcls_ext.hosts.paddleclas.image_lists import ListedDataset
from ppcls_ext.models.backbone import Backbone
from ppcls_ext.training.evaluation import answers_to
from ppcls_ext.training.first_batch import as_before, batch_of

#: Images that are answered both ways at once, from all parts of the list; with fewer than the first number nothing is.
FEWEST, MOST = 16, 64
#: How many more of them have to be right by their own statistics, as a share.
MUCH = 0.2


@paddle.no_grad()
def statistics_lag(engine: Any) -> str | None:
    """Answers some images of the evaluation's both ways.

    Args:
        engine: ours, built in its mode "train".

    Returns:
        A line where the difference is large. None otherwise, where there is nothing to compare (no normalisation that
        learns, few images, several labels an image), and in a training by several processes, which share statistics.
    """
    dataset = getattr(getattr(engine, "eval_dataloader", None), "dataset", None)
    norms = [layer for layer in engine.model.sublayers() if _is_plain(layer) and layer.training]
    if not norms or dist.get_world_size() > 1 or not isinstance(dataset, ListedDataset) or engine.task == MULTI_LABEL:
        return None
    # twice a training's batch takes less memory than its step, whose maps are kept
    batch_size = getattr(getattr(engine.train_dataloader, "batch_sampler", None), "batch_size", None) or 0
    count = min(MOST, len(dataset), 2 * batch_size)
    if count < FEWEST:
        return None
    indices = [number * len(dataset) // count for number in range(count)]
    batch = batch_of(engine.eval_dataloader, indices, "DataLoader.Eval")
    images, labels = engine.images_and_labels(batch, evaluating=True)
    with as_before(engine.model):
        by_running = _right(answers_to(engine, images, labels), labels)
        with _by_batch(norms):
            by_batch = _right(answers_to(engine, images, labels), labels)
    if by_running is None or by_batch is None or by_batch - by_running < MUCH * count:
        return None
    advice = "train more epochs or smaller batches, or with a lower Recipe.ema.decay where it is set"
    if isinstance(engine.network, Backbone) and engine.settings.recipe.precise_statistics is None:
        advice = "-o Recipe.precise_statistics={} computes them anew before each evaluation"
    return (
        f"of {count} images {by_running} are recognised by the running statistics of the batch normalisations, which "
        f"evaluations and exports take, and {by_batch} by the images' own: the running ones lag behind the weights; "
        f"{advice}"
    )


def _is_plain(layer: nn.Layer) -> bool:
    kinds = nn.layer.norm._BatchNormBase, nn.BatchNorm  # the second one is older, and PaddleClas's networks have it
    return isinstance(layer, kinds) and not isinstance(layer, nn.SyncBatchNorm)


def _right(outputs: Any, labels: paddle.Tensor) -> int | None:
    """How many are right; None where the network gives something else than a number for each class."""
    if not isinstance(outputs, paddle.Tensor) or outputs.ndim != 2 or labels.size != len(outputs):
        return None
    return int((outputs.argmax(1) == labels.reshape([-1])).sum())


@contextlib.contextmanager
def _by_batch(norms: list[Any]) -> Iterator[None]:
    """A context in which these take a batch's statistics, and keep their running ones as they are."""
    before = [(norm.training, norm._momentum) for norm in norms]
    try:
        for norm in norms:
            norm.training, norm._momentum = True, 1.0
        yield
    finally:
        for norm, (training, momentum) in zip(norms, before):
            norm.training, norm._momentum = training, momentum
