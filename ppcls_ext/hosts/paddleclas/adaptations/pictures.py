"""Operators on pictures: PaddleClas's own FasterNet_T0.yaml gives TimmAutoAugment no policy, which fails."""

from __future__ import annotations

import functools
from typing import Any

from ppcls_ext.hosts.adaptation import Adaptation, raises


def _no_policy_fails() -> bool:
    from ppcls.data import preprocess

    return raises(AttributeError, lambda: preprocess.TimmAutoAugment(config_str=None))


def _no_policy_is_no_augmentation() -> None:
    from ppcls.data.preprocess.ops.timm_autoaugment import RawTimmAutoAugment

    initialise = RawTimmAutoAugment.__init__

    @functools.wraps(initialise)
    def initialise_with_any(self: Any, *args: Any, **kwargs: Any) -> None:
        policy = args[0] if args else kwargs.get("config_str", "PaddleClas's default")
        if policy is None:
            self.augment_func = _as_it_is
        else:
            initialise(self, *args, **kwargs)

    RawTimmAutoAugment.__init__ = initialise_with_any


def _as_it_is(image: Any) -> Any:
    return image


_FILE = "ppcls/data/preprocess/ops/timm_autoaugment.py"
ADAPTATIONS = (Adaptation("no policy", _FILE, _no_policy_fails, _no_policy_is_no_augmentation),)
