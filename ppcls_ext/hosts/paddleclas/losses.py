"""PaddleClas's cross entropy, with a weight for each class."""

from __future__ import annotations

from typing import Any

import numpy as np
import paddle
from paddle import Tensor
from paddle.nn import functional


def weigh_classes(losses: Any, weights: np.ndarray) -> None:
    """Gives each class a weight in every `CELoss` of PaddleClas's `CombinedLoss`.

    The loss of a batch becomes the mean over its images of −Σ w_c · q_c · log p_c, where q are the labels as the loss
    has them: one class, mixed ones, or smoothed ones. With weights of 1 it is what it was.

    Args:
        losses: PaddleClas's, as built.
        weights: (classes,), 1 on average.
    """
    from ppcls.loss import CELoss

    values = paddle.to_tensor(weights.astype("float32"))

    class WeighedCELoss(CELoss):
        def forward(self, x: Any, label: Tensor) -> dict[str, Tensor]:
            logits = x["logits"] if isinstance(x, dict) else x
            classes = logits.shape[-1]
            is_mixed = label.shape[-1] == classes and label.is_floating_point()
            if self.epsilon is not None:
                label = self._labelsmoothing(label, classes)
            elif is_mixed:
                label = functional.softmax(label, axis=-1)  # as PaddleClas has it
            else:
                label = functional.one_hot(label.flatten(), classes)
            return {"CELoss": -(values * label * functional.log_softmax(logits, axis=-1)).sum(axis=-1).mean()}

    for index, loss in enumerate(losses.loss_func):
        if isinstance(loss, CELoss):
            losses.loss_func[index] = WeighedCELoss(epsilon=loss.epsilon)
