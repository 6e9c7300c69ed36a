"""Names that PaddleClas uses and newer packages no longer have.

`np.int` and `np.bool` are gone since NumPy 1.24 (`np.bool` came back in 2.0), `inspect.getargspec` since Python 3.11;
before, it refused functions with annotations, which Paddle's optimizers have.
"""

from __future__ import annotations

import inspect

from ppcls_ext.host.adaptations.adaptation import Adaptation, Extended, raises


def _auto_augment_fails() -> bool:
    from ppcls.data.preprocess import AutoAugment

    return raises(AttributeError, AutoAugment)


def _hybrid_mixing_fails() -> bool:
    import numpy as np
    from ppcls.data.preprocess.batch_ops import batch_operators

    return hasattr(batch_operators, "MixupCutmixHybrid") and not hasattr(np, "bool")


def _sgd_fails() -> bool:
    import paddle
    from ppcls.optimizer.optimizer import SGD

    return raises((AttributeError, ValueError), SGD(), [paddle.nn.Linear(1, 1)])


def _auto_augment_with_int() -> None:
    from ppcls.data.preprocess.ops import autoaugment

    autoaugment.np = Extended(autoaugment.np, int=int)


def _hybrid_mixing_with_bool() -> None:
    from ppcls.data.preprocess.batch_ops import batch_operators

    batch_operators.np = Extended(batch_operators.np, bool=bool)


def _sgd_with_getfullargspec() -> None:
    from ppcls.optimizer import optimizer

    optimizer.inspect = Extended(optimizer.inspect, getargspec=inspect.getfullargspec)


_BATCH = "ppcls/data/preprocess/batch_ops/batch_operators.py"
ADAPTATIONS = (
    Adaptation("AutoAugment", "ppcls/data/preprocess/ops/autoaugment.py", _auto_augment_fails, _auto_augment_with_int),
    Adaptation("MixupCutmixHybrid", _BATCH, _hybrid_mixing_fails, _hybrid_mixing_with_bool),
    Adaptation("SGD", "ppcls/optimizer/optimizer.py, SGD", _sgd_fails, _sgd_with_getfullargspec),
)
