"""Small pictures and weak augmentation first (progressive learning, arXiv 2104.00298; MobileOne, FasterNet).

The size is that of the random crop of training pictures. The strength is the share of pictures that the augmentation
policy (AutoAugment, RandAugment, …) is applied to: these policies have fixed magnitudes in PaddleClas, and every
picture gets them at strength 1.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from paddle.io import Dataset

from ppcls_ext.config.recipe import POLICIES, Stage
from ppcls_ext.hosts.paddleclas.image_operators import set_crop_size


class Curriculum:
    """Changes the transforms of a training data set from stage to stage.

    Args:
        stages: in the order of their epochs, the first at epoch 1.
        dataset: PaddleClas's, with a `RandCropImage` where stages have a size and a policy where they have a strength.
    """

    def __init__(self, stages: Sequence[Stage], dataset: Dataset) -> None:
        self._stages, self._last = stages, ""
        operators = dataset._transform_ops
        self._crops = [operator for operator in operators if type(operator).__name__ == "RandCropImage"]
        self._policies = []
        if any(stage.strength is not None for stage in stages):
            for index, operator in enumerate(operators):
                if type(operator).__name__ in POLICIES:
                    operators[index] = _Sometimes(operator)
                    self._policies.append(operators[index])

    def begin(self, epoch: int) -> str | None:
        """Sets the transforms for an epoch, counted from 1; returns the stage in words where it is a new one."""
        stage, before = self.set(epoch), self._last
        self._last = stage
        return stage if stage != before else None

    def set(self, epoch: int) -> str:
        """Sets the transforms for an epoch, counted from 1; returns the stage in words."""
        for stage in self._stages:  # what a stage leaves out stays as it was
            if stage.epoch > epoch:
                break
            for crop in self._crops:
                if stage.size is not None:
                    set_crop_size(crop, stage.size)
            for policy in self._policies if stage.strength is not None else ():
                policy.strength = stage.strength
        words = [f"{crop.size[0]} px" for crop in self._crops]
        words += [f"augmentation of {policy.strength:.0%} of the pictures" for policy in self._policies]
        return ", ".join(words)


class _Sometimes:
    """Applies an operator to the share `strength` of the pictures."""

    def __init__(self, operator: Any) -> None:
        self._operator = operator
        self.strength = 1.0

    def __call__(self, picture: Any) -> Any:
        if self.strength < 1 and random.random() >= self.strength:
            return picture
        return self._operator(picture)
