"""Running statistics that are the same on all ranks.

Several processes share gradients, hence weights; each keeps running statistics of its own pictures. PaddleClas
evaluates each rank with its own, and saves rank 0's: other weights than those that were evaluated.
"""

from __future__ import annotations

from collections.abc import Mapping

import paddle
import paddle.distributed as dist
from paddle import Tensor


@paddle.no_grad()
def average_statistics(state: Mapping[str, Tensor]) -> None:
    """Gives the running means and variances in `state` their mean over all ranks, which have to call this together."""
    statistics = [tensor for name, tensor in state.items() if name.endswith(("._mean", "._variance"))]
    if dist.get_world_size() == 1 or not statistics:
        return
    together = paddle.concat([tensor.flatten() for tensor in statistics])  # one message instead of hundreds
    dist.all_reduce(together)
    together /= dist.get_world_size()
    for tensor, mean in zip(statistics, together.split([tensor.size for tensor in statistics])):
        paddle.assign(mean.reshape(tensor.shape), output=tensor)
