"""Everything that this project changes in the PaddleClas and Paddle of a process, in order.

Each adaptation names the file it answers and has a probe: it is applied only where the probe finds that it is needed.
Besides these changes, `registry.register` publishes the models.

The first group is what PaddleClas needs to run on today's Python, NumPy and Paddle; a PaddleClas that needs none of it
gets none:

- Names that are gone: `np.int` and `np.bool` since NumPy 1.24 (`np.bool` came back in 2.0), `inspect.getargspec` since
  Python 3.11; before, it refused functions with annotations, which Paddle's optimizers have. mINP misspells
  `paddle.index_sample`.
- 0-D tensors: since Paddle 2.5 a reduction returns one, on which PaddleClas 2.4's `.numpy()[0]` fails.
- Labels in another form than the losses accept: CutmixOperator multiplies labels by a NumPy scalar, which makes them
  float64 since NumPy 2, and cross entropy refuses those beside float32 logits. MultiLabelDataset of 2.4 reads an
  attribute that it sets only with `label_ratio`, and tries one image after the other without end.
- MultiLabelTopk, which tells the classes that an image shows, takes their names and drops them.
- PaddleClas's own FasterNet_T0.yaml gives TimmAutoAugment no policy, which fails. Its posterize keeps 0 bits of some
  images, which newer Pillows refuse (13 does), so that a good image would count as unreadable.
- PaddleClas develop asks each of several processes for its GPU, which Paddle refuses on a CPU.

The other groups are about safety, about processes that end, and about reading images as prediction does.
"""

from __future__ import annotations

import functools
import inspect
import os
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

from ppcls_ext.hosts.adaptation import Adaptation, Extended, apply_needed, patch, raises
from ppcls_ext.hosts.paddleclas import image_operators, loader_processes, safe_eval, safe_pickle
from ppcls_ext.hosts.paddleclas.locate import engine_class
from ppcls_ext.hosts.paddleclas.versions import asks_for_device_id


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

    with paddle.utils.unique_name.guard():  # checkpoints know parameters by names that Paddle counts
        return raises((AttributeError, ValueError), SGD(), [paddle.nn.Linear(1, 1)])


def _auto_augment_with_int() -> None:
    from ppcls.data.preprocess.ops import autoaugment

    _give_back_to_numpy(autoaugment, int=int)


def _hybrid_mixing_with_bool() -> None:
    from ppcls.data.preprocess.batch_ops import batch_operators

    _give_back_to_numpy(batch_operators, bool=bool)


def _give_back_to_numpy(module: ModuleType, **names: type) -> None:
    """Gives a file of the host names that NumPy has no more."""
    patch(module, "np", Extended(module.np, **names))


def _sgd_with_getfullargspec() -> None:
    from ppcls.optimizer import optimizer

    patch(optimizer, "inspect", Extended(optimizer.inspect, getargspec=inspect.getfullargspec))


def _minp_fails() -> bool:
    import paddle
    from ppcls.metric.metrics import mINP

    label = paddle.zeros([1, 1], dtype="int64")
    return raises(AttributeError, mINP(), paddle.ones([1, 1]), label, label, paddle.ones([1, 1], dtype="bool"))


def _minp_with_index_sample() -> None:
    from ppcls.metric import metrics

    patch(metrics, "paddle", Extended(metrics.paddle, indechmx_sample=metrics.paddle.index_sample))


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

    _give_one_element_results(CombinedLoss, "__call__")


def _one_element_metrics() -> None:
    from ppcls.metric import CombinedMetrics

    _give_one_element_results(CombinedMetrics, "forward")


def _averages_of_floats() -> None:
    from ppcls.utils.misc import AverageMeter

    update = AverageMeter.update

    @functools.wraps(update)
    def update_with_float(self: Any, val: Any, n: int = 1) -> None:
        update(self, float(val), n)

    patch(AverageMeter, "update", update_with_float)


def _one_element_means() -> None:
    import paddle
    from ppcls.metric import metrics

    extended = Extended(
        metrics.paddle,
        mean=lambda *args, **kwargs: _one_element(paddle.mean(*args, **kwargs)),
        to_tensor=lambda *args, **kwargs: _one_element(paddle.to_tensor(*args, **kwargs)),
    )
    patch(metrics, "paddle", extended)


def _give_one_element_results(owner: type, name: str) -> None:
    """Wraps a method that returns a dict of tensors: its 0-D tensors become 1-D."""
    method: Callable[..., dict] = getattr(owner, name)

    @functools.wraps(method)
    def wrapped(*args: Any, **kwargs: Any) -> dict:
        return {key: _one_element(value) for key, value in method(*args, **kwargs).items()}

    patch(owner, name, wrapped)


def _one_element(value: Any) -> Any:
    import paddle

    return value.reshape([1]) if isinstance(value, paddle.Tensor) and value.ndim == 0 else value


def _logits_and_labels() -> tuple:
    import paddle

    return paddle.zeros([2, 3]), paddle.zeros([2, 1], dtype="int64")


def _mixed_labels_are_float64() -> bool:
    import numpy as np
    from ppcls.data.preprocess.batch_ops.batch_operators import CutmixOperator

    label = np.zeros(1, np.int64)
    return CutmixOperator(class_num=2)._mix_target(label, label, np.float64(0.5)).dtype != np.float32


def _label_ratio_is_missing() -> bool:
    from ppcls.data import MultiLabelDataset

    # a data set of nothing: its list is empty
    return not hasattr(MultiLabelDataset(os.sep, os.devnull, []), "label_ratio")


def _mixed_labels_as_float32() -> None:
    from ppcls.data.preprocess.batch_ops.batch_operators import BatchOperator

    mix = BatchOperator._mix_target

    @functools.wraps(mix)
    def mix_in_float32(*args: Any, **kwargs: Any) -> Any:
        return mix(*args, **kwargs).astype("float32")

    patch(BatchOperator, "_mix_target", mix_in_float32)


def _label_ratio_of_none() -> None:
    from ppcls.data import MultiLabelDataset

    patch(MultiLabelDataset, "label_ratio", None)


def _names_of_several_are_dropped() -> bool:
    from ppcls.data import postprocess

    topk = getattr(postprocess, "MultiLabelTopk", None)
    return topk is not None and topk(class_id_map_file=os.devnull).class_id_map is None


def _names_of_several_are_kept() -> None:
    from ppcls.data.postprocess import MultiLabelTopk, Topk

    @functools.wraps(MultiLabelTopk.__init__)
    def initialise(self: Any, topk: int = 1, class_id_map_file: str | None = None) -> None:
        Topk.__init__(self, topk, class_id_map_file)

    patch(MultiLabelTopk, "__init__", initialise)


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

    patch(RawTimmAutoAugment, "__init__", initialise_with_any)


def _as_it_is(image: Any) -> Any:
    return image


def _no_bits_fail() -> bool:
    from PIL import Image
    from ppcls.data.preprocess.ops import timm_autoaugment

    return raises(ValueError, timm_autoaugment.posterize, Image.new("RGB", (1, 1)), 0)


def _no_bits_are_black() -> None:
    from PIL import Image
    from ppcls.data.preprocess.ops import timm_autoaugment

    operations = timm_autoaugment.ImageOps

    def posterize(image: Image.Image, bits: int) -> Image.Image:
        return operations.posterize(image, bits) if bits > 0 else Image.new(image.mode, image.size)

    patch(timm_autoaugment, "ImageOps", Extended(operations, posterize=posterize))


def _device_is_missing() -> bool:
    import paddle

    return asks_for_device_id() and raises(AttributeError, lambda: paddle.distributed.ParallelEnv().device_id)


def _device_0() -> None:
    import paddle

    # PaddleClas asks for it also where it does not use it
    patch(paddle.distributed.ParallelEnv, "_device_id", 0)


_AUGMENT = "ppcls/data/preprocess/ops/timm_autoaugment.py"
_BATCH = "ppcls/data/preprocess/batch_ops/batch_operators.py"
_LABELS = "ppcls/data/dataloader/multilabel_dataset.py"
_METRICS = "ppcls/metric/metrics.py"
_OPERATORS = "ppcls/data/preprocess/ops/operators.py"
_TOPK = "ppcls/data/postprocess/topk.py, MultiLabelTopk"
_TRAIN = "ppcls/engine/train/utils.py"

ADAPTATIONS = (
    # code of PaddleClas that fails on today's Python, NumPy or Paddle
    Adaptation("AutoAugment", "ppcls/data/preprocess/ops/autoaugment.py", _auto_augment_fails, _auto_augment_with_int),
    Adaptation("MixupCutmixHybrid", _BATCH, _hybrid_mixing_fails, _hybrid_mixing_with_bool),
    Adaptation("mINP", f"{_METRICS}, mINP", _minp_fails, _minp_with_index_sample),
    Adaptation("SGD", "ppcls/optimizer/optimizer.py, SGD", _sgd_fails, _sgd_with_getfullargspec),
    Adaptation("one-element losses", f"{_TRAIN}, update_loss", _losses_fail, _one_element_losses),
    Adaptation("one-element metrics", f"{_TRAIN}, update_metric", _metrics_fail, _one_element_metrics),
    Adaptation("averages of floats", "ppcls/utils/misc.py, AverageMeter", _averages_fail, _averages_of_floats),
    # behind mINP: both put something in the place of the module's `paddle`
    Adaptation("one-element means", f"{_METRICS}, mAP, mINP, …", _retrieval_metrics_fail, _one_element_means),
    Adaptation("mixed labels", f"{_BATCH}, CutmixOperator", _mixed_labels_are_float64, _mixed_labels_as_float32),
    Adaptation("label ratio", f"{_LABELS}, __getitem__", _label_ratio_is_missing, _label_ratio_of_none),
    Adaptation("names of several", _TOPK, _names_of_several_are_dropped, _names_of_several_are_kept),
    Adaptation("no policy", _AUGMENT, _no_policy_fails, _no_policy_is_no_augmentation),
    Adaptation("posterize to black", f"{_AUGMENT}, posterize", _no_bits_fail, _no_bits_are_black),
    Adaptation("device of a CPU", "ppcls/engine/evaluation/classification.py", _device_is_missing, _device_0),
    # code that runs what a file says, or takes any amount of memory
    Adaptation("pickle", "paddle/framework/io.py, …", safe_pickle.is_needed, safe_pickle.read_without_running),
    Adaptation("eval", "ppcls/loss/__init__.py, …", safe_eval.is_needed, safe_eval.guard),
    Adaptation(
        "bounded resizing",
        f"{_OPERATORS}, UnifiedResize",
        image_operators.resizes_without_bound,
        image_operators.bound_resizing,
    ),
    # processes that would wait for ever
    Adaptation(
        "loading processes",
        "paddle/io/dataloader/worker.py, _worker_loop",
        loader_processes.outlive_their_parent,
        loader_processes.end_with_their_parent,
    ),
    # the pixels that prediction sees
    Adaptation(
        "image reader",
        f"{_OPERATORS}, DecodeImage",
        image_operators.decodes_with_opencv,
        image_operators.decode_as_prediction_does,
    ),
)


def apply() -> list[str]:
    """Applies the adaptations that the PaddleClas in use needs; a second call finds nothing to do.

    Returns:
        The names of the adaptations applied by this call.

    Raises:
        PpclsExtError: there is no PaddleClas with an engine.
    """
    engine_class()  # imports the modules that `pickle` and `eval` are about
    return apply_needed(ADAPTATIONS)
