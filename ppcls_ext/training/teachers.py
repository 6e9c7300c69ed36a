"""Learning from the answers of other trainings, as well as from the labels.

Several trainings answer better together than each of them. What they answer to an image, a probability for each class,
says more than its label; a network that learns it comes close to all of them (Hinton et al., "Distilling the Knowledge
in a Neural Network", arXiv 1503.02531). Teachers and student see the same crop, flip and mixture of images (Beyer et
al., "Knowledge distillation: A good teacher is patient and consistent", arXiv 2106.05237).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import paddle
from paddle import Tensor
from paddle.nn import functional
from paddle.utils import unique_name

from ppcls_ext.config.settings import RunSettings
from ppcls_ext.reparam.fuse import reparameterize


class Teachers:
    """Networks of finished runs, fused, whose mean answer is a part of the loss.

    Args:
        runs: opened with their weights; of any of this project's architectures.
        share: of their part in the loss; the rest is the configuration's own.
    """

    def __init__(self, runs: Sequence[RunSettings], share: float) -> None:
        self._share = share
        with unique_name.guard():  # optimizers save their state under names that Paddle counts
            self._networks = [reparameterize(run.build_model().eval()) for run in runs]

    def __len__(self) -> int:
        return len(self._networks)

    def answer(self, images: Tensor) -> Tensor:
        """The mean of the networks' probabilities, float32.

        Args:
            images: (N, C, H, W), as the training sees them.

        Returns:
            (N, classes).
        """
        with paddle.no_grad():
            answers = [functional.softmax(network(images).astype("float32")) for network in self._networks]
            return paddle.add_n(answers) / len(answers)

    def add_to(self, losses: dict[str, Any], images: Tensor, logits: Tensor) -> dict[str, Any]:
        """The losses of a batch with the teachers' part.

        That is the Kullback-Leibler divergence of the network's answer from theirs: 0 where both are the same.

        Args:
            losses: by their names; "loss" is their sum.
            images: (N, C, H, W), of the batch.
            logits: (N, classes), the network's.
        """
        answer = self.answer(images)
        with paddle.amp.auto_cast(enable=False):
            apart = functional.kl_div(functional.log_softmax(logits.astype("float32")), answer, reduction="batchmean")
            total = (1 - self._share) * losses["loss"] + self._share * apart.reshape(losses["loss"].shape)
        return {**losses, "loss": total, "teachers": apart}
