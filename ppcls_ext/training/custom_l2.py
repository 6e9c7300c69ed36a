"""RepVGG's own weight decay, a term of the loss (official `repvgg.py`): decay of what the fused kernels will be."""

from __future__ import annotations

from typing import Any

import paddle
from paddle import Tensor, nn

from ppcls_ext.models.repvgg import RepVGGBlock, custom_l2


class LossWithCustomL2:
    """PaddleClas's training loss plus `coefficient / 2 · custom_l2(network)`; in everything else it is that loss.

    Args:
        loss: a layer that gives a dict of losses, their sum under "loss".
        network: RepVGG, unfused.
        coefficient: in place of the weight decay on the network's 3×3 and 1×1 kernels.
    """

    def __init__(self, loss: nn.Layer, network: nn.Layer, coefficient: float) -> None:
        self._loss, self._network, self._coefficient = loss, network, coefficient

    def __call__(self, *args: Any) -> dict[str, Tensor]:
        """The losses of a batch."""
        losses = self._loss(*args)
        with paddle.amp.auto_cast(enable=False):
            penalty = custom_l2(self._network) * (self._coefficient / 2)
            total = losses["loss"] + penalty.reshape(losses["loss"].shape)
        return {**losses, "loss": total}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loss, name)


def kernels_of_custom_l2(network: nn.Layer) -> list[Tensor]:
    """The kernels that `custom_l2` decays."""
    blocks = [layer for layer in network.sublayers(include_self=True) if isinstance(layer, RepVGGBlock)]
    return [kernel for block in blocks for kernel in (block.rbr_dense.conv.weight, block.rbr_1x1.conv.weight)]
