"""The sampler that draws each class equally often."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from paddle.io import Dataset

from ppcls_ext.errors import PpclsExtError
from ppcls_ext.hosts.paddleclas.samplers import BalancedBatchSampler


class Images(Dataset):
    """One class has 40 images, one 9, one 1."""

    labels = [0] * 40 + [2] * 9 + [5]

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        return index


def drawn(sampler) -> list[int]:
    return [index for batch in sampler for index in batch]


def test_classes_are_drawn_equally_often_and_their_images_in_turn():
    indices = drawn(BalancedBatchSampler(Images(), batch_size=8))
    assert len(indices) == 50
    counts = Counter(Images.labels[index] for index in indices)
    assert set(counts) == {0, 2, 5}
    assert max(counts.values()) - min(counts.values()) <= 2, counts
    often = Counter(index for index in indices if Images.labels[index] == 2)
    assert len(often) == 9
    assert max(often.values()) - min(often.values()) <= 1
    assert len({index for index in indices if index < 40}) == counts[0], "no image of the large class twice"


def test_an_epoch_draws_the_same_again_and_another_one_others():
    first, second = BalancedBatchSampler(Images(), batch_size=8), BalancedBatchSampler(Images(), batch_size=8)
    epochs = [drawn(first) for _ in range(3)]
    assert epochs[0] != epochs[1] != epochs[2]
    second.set_epoch(2)
    assert drawn(second) == epochs[2]


@pytest.mark.parametrize("drop_last", [False, True])
def test_processes_share_an_epoch(drop_last):
    samplers = [
        BalancedBatchSampler(Images(), batch_size=8, num_replicas=3, rank=rank, drop_last=drop_last)
        for rank in range(3)
    ]
    batches = [list(sampler) for sampler in samplers]
    assert [len(own) for own in batches] == [len(samplers[0])] * 3
    assert all(len(batch) == 8 for own in batches for batch in own[:-1])
    together = Counter(Images.labels[index] for own in batches for batch in own for index in batch)
    assert drop_last or sum(together.values()) == 51
    assert max(together.values()) - min(together.values()) <= (3 if not drop_last else 6)


def test_paddleclas_finds_it(registered):
    import ppcls.data

    assert ppcls.data.BalancedBatchSampler is BalancedBatchSampler
    assert np.issubdtype(type(drawn(BalancedBatchSampler(Images(), 4))[0]), np.integer)


@pytest.mark.parametrize("labels", [np.eye(3, dtype=np.uint8), None, 0])
def test_images_without_one_class_each_are_refused(labels):
    images = Images()
    images.labels = labels
    with pytest.raises(PpclsExtError, match="draws by the one class of each image"):
        BalancedBatchSampler(images, 4)
