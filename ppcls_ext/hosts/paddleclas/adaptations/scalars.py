"""0-D tensors: since Paddle 2.5 a reduction gives one, on which PaddleClas 2.4's `.numpy()[0]` fails."""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from ppcls_ext.hosts.adaptation import Adaptation, Extended, raises


def _losses_fail() -> bool:
    from ppcls.engine.train.utils import update_loss
    from ppcls.loss import CombinedLoss

    losses = CombinedLoss([{"CELoss": {"weight": 1.0}}])(*_logits_and_labels())
    return raises(IndexError, update_loss, SimpleNamespace(output_info={}), losses, 1)


def _metrics_fail() -> bool:
    from ppcls.engine.train.utils import update_metric
    from ppcls.metric import CombinedMetrics

    logits, labels = _logits_and_labels()
    trainer = SimpleNamespace(output_info={}, train_metric_func=CombinedMetrics([{"TopkAcc": {"topk": [1]}}]))
    return raises(IndexError, update_metric, trainer, logits, [labels], 1)


def _averages_fail() -> bool:
    import paddle
    from ppcls.utils.misc import AverageMeter

    meter = AverageMeter("probe")
    meter.update(paddle.zeros([]))
    return raises(IndexError, lambda: meter.avg_info)


def _retrieval_metrics_fail() -> bool:
    import paddle
    from ppcls.metric.metrics import mAP

    label = paddle.zeros([1, 1], dtype="int64")
    return raises(IndexError, mAP(), paddle.ones([1, 1]), label, label, None)


def _one_element_losses() -> None:
    from ppcls.loss import CombinedLoss

    CombinedLoss.__call__ = _with_one_element_results(CombinedLoss.__call__)


def _one_element_metrics() -> None:
    from ppcls.metric import CombinedMetrics

    CombinedMetrics.forward = _with_one_element_results(CombinedMetrics.forward)


def _averages_of_floats() -> None:
    from ppcls.utils.misc import AverageMeter

    update = AverageMeter.update

    @functools.wraps(update)
    def update_with_float(self: Any, val: Any, n: int = 1) -> None:
        update(self, float(val), n)

    AverageMeter.update = update_with_float


def _one_element_means() -> None:
    import paddle
    from ppcls.metric import metrics

    metrics.paddle = Extended(
        metrics.paddle,
        mean=lambda *args, **kwargs: _one_element(paddle.mean(*args, **kwargs)),
        to_tensor=lambda *args, **kwargs: _one_element(paddle.to_tensor(*args, **kwargs)),
    )


def _with_one_element_results(method: Callable) -> Callable:
    """`method`, a function that returns a dict of tensors, with 0-D tensors made 1-D."""

    @functools.wraps(method)
    def wrapped(*args: Any, **kwargs: Any) -> dict:
        return {name: _one_element(value) for name, value in method(*args, **kwargs).items()}

    return wrapped


def _one_element(value: Any) -> Any:
    import paddle

    return value.reshape([1]) if isinstance(value, paddle.Tensor) and value.ndim == 0 else value


def _logits_and_labels() -> tuple:
    import paddle

    return paddle.zeros([2, 3]), paddle.zeros([2, 1], dtype="int64")


_TRAIN, _METRICS = "ppcls/engine/train/utils.py", "ppcls/metric/metrics.py"
ADAPTATIONS = (
    Adaptation("one-element losses", f"{_TRAIN}, update_loss", _losses_fail, _one_element_losses),
    Adaptation("one-element metrics", f"{_TRAIN}, update_metric", _metrics_fail, _one_element_metrics),
    Adaptation("averages of floats", "ppcls/utils/misc.py, AverageMeter", _averages_fail, _averages_of_floats),
    Adaptation("one-element means", f"{_METRICS}, mAP, mINP, …", _retrieval_metrics_fail, _one_element_means),
)
