"""Names that PaddleClas uses and that newer packages, or all of them, do not have.

`np.int` and `np.bool` are gone since NumPy 1.24 (`np.bool` came back in 2.0), `inspect.getargspec` since Python 3.11;
before, it refused functions with annotations, which Paddle's optimizers have. mINP misspells `paddle.index_sample`.
"""

from __future__ import annotations

import inspect

from ppcls_ext.hosts.adaptation import Adaptation, Extended, raises


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


def _minp_fails() -> bool:
    import paddle
    from ppcls.metric.metrics import mINP

    label = paddle.zeros([1, 1], dtype="int64")
    return raises(AttributeError, mINP(), paddle.ones([1, 1]), label, label, paddle.ones([1, 1], dtype="bool"))


def _minp_with_index_sample() -> None:
    from ppcls.metric import metrics

    metrics.paddle = Extended(metrics.paddle, indechmx_sample=metrics.paddle.index_sample)


_BATCH = "ppcls/data/preprocess/batch_ops/batch_operators.py"
ADAPTATIONS = (
    Adaptation("AutoAugment", "ppcls/data/preprocess/ops/autoaugment.py", _auto_augment_fails, _auto_augment_with_int),
    Adaptation("MixupCutmixHybrid", _BATCH, _hybrid_mixing_fails, _hybrid_mixing_with_bool),
    Adaptation("mINP", "ppcls/metric/metrics.py, mINP", _minp_fails, _minp_with_index_sample),
    Adaptation("SGD", "ppcls/optimizer/optimizer.py, SGD", _sgd_fails, _sgd_with_getfullargspec),
)
