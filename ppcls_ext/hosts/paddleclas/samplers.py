"""A sampler for PaddleClas that draws each class equally often."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from paddle.io import Dataset, DistributedBatchSampler

from ppcls_ext.errors import PpclsExtError
from ppcls_ext.hosts.paddleclas import registry


class BalancedBatchSampler(DistributedBatchSampler):
    """Draws as many images of each class, whatever their numbers; an epoch has as many images as the list.

    The images of a class take turns: each is drawn once before any is drawn again. Like Paddle's own, it draws by the
    number of the epoch, so that a resumed training draws the same, and each process gets another part.

    Args:
        dataset: one class an image, in its attribute `labels`.
        batch_size: images a step, of each process.
        shuffle: there only because every sampler has it; the order is always random.
        num_replicas: processes that share an epoch; those of the training where None.
        rank: number of this one.
        drop_last: whether to leave out a last batch that is smaller.

    Raises:
        PpclsExtError: the images have several labels each, or none.
    """

    def __init__(
        self,
        dataset: Dataset,
        batch_size: int,
        num_replicas: int | None = None,
        rank: int | None = None,
        shuffle: bool = True,
        drop_last: bool = False,
    ) -> None:
        if np.ndim(getattr(dataset, "labels", 0)) != 1:
            raise PpclsExtError(
                "BalancedBatchSampler (--sampler balanced) draws by the one class of each image, and the data set has "
                "none: expected DistributedBatchSampler"
            )
        super().__init__(dataset, batch_size, num_replicas, rank, shuffle, drop_last)

    def __iter__(self) -> Iterator[list[int]]:
        random = np.random.RandomState(self.epoch)
        self.epoch += 1
        labels = np.asarray(self.dataset.labels)
        classes = np.unique(labels)
        each = math.ceil(self.total_size / len(classes))
        drawn = []
        for label in classes:
            images = np.flatnonzero(labels == label)
            rounds = [random.permutation(images) for _ in range(math.ceil(each / len(images)))]
            drawn.append(np.concatenate(rounds)[:each])
        order = random.permutation(np.concatenate(drawn))[: self.total_size]
        own = order[self.local_rank :: self.nranks]
        for start in range(0, len(own), self.batch_size):
            batch = own[start : start + self.batch_size]
            if len(batch) == self.batch_size or not self.drop_last:
                yield batch.tolist()


def publish() -> None:
    """Makes the sampler known to PaddleClas."""
    registry.publish(BalancedBatchSampler)
