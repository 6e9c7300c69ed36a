"""Another learning rate for the classifier, which starts from nothing when a pretrained net is fine-tuned."""

from __future__ import annotations

from paddle import nn


def multiply_head_learning_rate(model: nn.Layer, factor: float) -> None:
    """Makes every optimizer update the classifier with `factor` times the learning rate.

    Args:
        model: one of this project's models.
        factor: 1 changes nothing, 0 keeps the classifier as it is.
    """
    for parameter in getattr(model, model.classifier).parameters():
        parameter.optimize_attr["learning_rate"] = factor
