"""What PaddleClas needs to run on today's Paddle.

Since Paddle 2.5 a reduction gives a 0-D tensor, on which `.numpy()[0]` fails; PaddleClas 2.4 reads losses and
accuracies that way. It also uses `np.int`, gone since NumPy 1.24, and `inspect.getargspec`, gone since Python 3.11.
PaddleClas develop asks each of several processes for its GPU, which Paddle answers with an exception on a CPU.
Each adaptation says which file of PaddleClas it answers and is applied only where a probe shows that the file fails; a
PaddleClas that needs none gets none.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any, NamedTuple

from ppcls_ext.host.locate import activate


class Adaptation(NamedTuple):
    """One change to PaddleClas.

    Attributes:
        name: what `apply` reports.
        answers: the file of PaddleClas that fails without it.
        is_needed: the probe.
        apply: makes the change.
    """

    name: str
    answers: str
    is_needed: Callable[[], bool]
    apply: Callable[[], None]


def apply() -> list[str]:
    """Applies what the PaddleClas in use needs; once applied, a second call finds nothing to do.

    Returns:
        The names of the adaptations applied by this call.

    Raises:
        PpclsExtError: there is no PaddleClas with an engine.
    """
    activate(need_engine=True)
    applied = []
    for adaptation in ADAPTATIONS:
        if adaptation.is_needed():
            adaptation.apply()
            applied.append(adaptation.name)
    return applied


def _losses_fail() -> bool:
    from ppcls.engine.train.utils import update_loss
    from ppcls.loss import CombinedLoss

    losses = CombinedLoss([{"CELoss": {"weight": 1.0}}])(*_logits_and_labels())
    return _raises(IndexError, update_loss, SimpleNamespace(output_info={}), losses, 1)


def _metrics_fail() -> bool:
    from ppcls.engine.train.utils import update_metric
    from ppcls.metric import CombinedMetrics

    logits, labels = _logits_and_labels()
    trainer = SimpleNamespace(output_info={}, train_metric_func=CombinedMetrics([{"TopkAcc": {"topk": [1]}}]))
    return _raises(IndexError, update_metric, trainer, logits, [labels], 1)


def _averages_fail() -> bool:
    import paddle
    from ppcls.utils.misc import AverageMeter

    meter = AverageMeter("probe")
    meter.update(paddle.zeros([]))
    return _raises(IndexError, lambda: meter.avg_info)


def _auto_augment_fails() -> bool:
    from ppcls.data.preprocess import AutoAugment

    return _raises(AttributeError, AutoAugment)


def _sgd_fails() -> bool:
    import paddle
    from ppcls.optimizer.optimizer import SGD

    return _raises(AttributeError, SGD(), [paddle.nn.Linear(1, 1)])


def _device_is_missing() -> bool:
    import paddle
    from ppcls.engine.evaluation import classification

    asks = "ParallelEnv().device_id" in inspect.getsource(classification)
    return asks and _raises(AttributeError, lambda: paddle.distributed.ParallelEnv().device_id)


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


def _auto_augment_with_int() -> None:
    from ppcls.data.preprocess.ops import autoaugment

    autoaugment.np = _Extended(autoaugment.np, int=int)


def _sgd_with_getargspec() -> None:
    from ppcls.optimizer import optimizer

    optimizer.inspect = _Extended(optimizer.inspect, getargspec=inspect.getfullargspec)


def _device_0() -> None:
    import paddle

    paddle.distributed.ParallelEnv._device_id = 0  # PaddleClas asks for it also where it does not use it


class _Extended:
    """A module with more in it, for one file of PaddleClas alone."""

    def __init__(self, module: ModuleType, **names: Any) -> None:
        self._module = module
        vars(self).update(names)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)


_TRAIN, _MISC = "ppcls/engine/train/utils.py", "ppcls/utils/misc.py"
ADAPTATIONS = (
    Adaptation("one-element losses", f"{_TRAIN}, update_loss", _losses_fail, _one_element_losses),
    Adaptation("one-element metrics", f"{_TRAIN}, update_metric", _metrics_fail, _one_element_metrics),
    Adaptation("averages of floats", f"{_MISC}, AverageMeter.avg_info", _averages_fail, _averages_of_floats),
    Adaptation("AutoAugment", "ppcls/data/preprocess/ops/autoaugment.py", _auto_augment_fails, _auto_augment_with_int),
    Adaptation("SGD", "ppcls/optimizer/optimizer.py, SGD", _sgd_fails, _sgd_with_getargspec),
    Adaptation("device of a CPU", "ppcls/engine/evaluation/classification.py", _device_is_missing, _device_0),
)


def _with_one_element_results(method: Callable) -> Callable:
    """`method`, a function that returns a dict of tensors, with 0-D tensors made 1-D."""

    @functools.wraps(method)
    def wrapped(*args: Any, **kwargs: Any) -> dict:
        results = method(*args, **kwargs)
        return {
            name: value.reshape([1]) if getattr(value, "ndim", 1) == 0 else value for name, value in results.items()
        }

    return wrapped


def _logits_and_labels() -> tuple:
    import paddle

    return paddle.zeros([2, 3]), paddle.zeros([2, 1], dtype="int64")


def _raises(error: type[Exception], call: Callable, *args: Any) -> bool:
    try:
        call(*args)
    except error:
        return True
    return False
