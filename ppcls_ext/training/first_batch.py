"""Before the first epoch: one batch goes through the evaluation, so that what cannot work costs no epoch.

The batch is read in this process and nothing is kept of it: random numbers, running statistics and the metrics' sums
are as before.
"""

from __future__ import annotations

import contextlib
import copy
import inspect
import logging
import math
import random
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import paddle
from paddle.io.dataloader.collate import default_collate_fn
from paddle.utils import map_structure, unique_name

from ppcls_ext.config.best import F1_MACRO, OF_SEVERAL_LABELS, parts
from ppcls_ext.config.settings import distilled_networks
from ppcls_ext.data.lists import MULTI_LABEL
from ppcls_ext.errors import PpclsExtError, one_line
from ppcls_ext.hosts.quiet import logging_from
from ppcls_ext.training.evaluation import answers_to, logits_and_labels, require_classifier, values_of
from ppcls_ext.training.host_log import as_number
from ppcls_ext.training.loaders import require_read

#: PaddleClas's models of a teacher and a student.
DISTILLATION = ("DistillationModel", "AttentionModel")
LONGEST = 300  # characters of an error that Paddle explains at length


def try_parts(engine: Any) -> None:
    """Puts one batch through the network, the losses and the metrics of an evaluation.

    Where a teacher is distilled, one of the training, too.

    DALI's batches and the evaluation of faces (`eval_mode: adaface`) are left to the evaluation itself.

    Args:
        engine: ours, built in its mode "train" or "eval".

    Raises:
        PpclsExtError: a part cannot work; the message names its section.
    """
    evaluates = engine.mode == "eval" or engine.config["Global"]["eval_during_train"]
    distils = engine.mode == "train" and engine.config["Arch"]["name"] in DISTILLATION and not engine.trains_by_host
    if engine.use_dali or not (evaluates or distils):
        return
    with as_before(engine.model), paddle.no_grad(), unique_name.guard():
        if distils:
            _try_distillation(engine)
        if evaluates and engine.eval_mode == "classification":
            _try_classification(engine)
        elif evaluates and engine.eval_mode == "retrieval":
            _try_retrieval(engine)


def _try_classification(engine: Any) -> None:
    config, loader = engine.config, engine.eval_dataloader
    images, labels = engine.images_and_labels(first_batch_of(loader, "DataLoader.Eval"), evaluating=True)
    require_read(loader.dataset)
    with explained("Arch", images, labels):
        outputs = answers_to(engine, images, labels)
    require_classifier(config, outputs)
    outputs = _finite(outputs)
    with engine.precision.cast(evaluating=True):
        _try_losses("Loss.Eval", (config.get("Loss") or {}).get("Eval"), outputs, labels)
    values = _try_metrics("Metric.Eval", config["Metric"]["Eval"], outputs, labels)
    useful = [name for name in values if not _is_beyond(name, outputs)]
    if engine.task == MULTI_LABEL:
        logits_and_labels(outputs, labels)  # raises where they do not go together
        useful += OF_SEVERAL_LABELS
    elif isinstance(outputs, paddle.Tensor):
        useful.append(F1_MACRO)
    best_by = engine.best_by
    if best_by is not None and best_by.name not in [*useful, "loss"]:
        raise PpclsExtError(
            f"Metric.Eval: {', '.join(useful) or 'nothing'} is computed of the network's {_shapes(outputs)} outputs, "
            f"and not {best_by.name}, which is to decide which epoch is the best: change topk or Global.best_by"
        )
    if engine.answers is not None:
        with explained("Global.report (--report)", outputs, labels):
            engine.answers.add(outputs, labels)
        engine.answers.clear()


def _is_beyond(name: str, outputs: Any) -> bool:
    """Whether it is the top-k of fewer outputs, which PaddleClas leaves out, or since 2.6 gives as 1."""
    k = name.removeprefix("top")
    return k != name and k.isdecimal() and isinstance(outputs, paddle.Tensor) and int(k) > outputs.shape[-1]


def _try_losses(section: str, losses: Any, outputs: Any, labels: Any) -> None:
    """Each of the losses, and their sum."""
    from ppcls.loss import build_loss

    if losses is None:
        return
    for path, tried in [
        *((path, [losses[i]]) for i, (path, *_) in enumerate(parts(section, losses))),
        (section, losses),
    ]:
        with explained(path, outputs, labels):
            for value in build_loss(tried)(outputs, labels).values():
                as_number(value)


def _try_metrics(section: str, metrics: Any, outputs: Any, labels: Any) -> dict[str, float]:
    """The numbers that the metrics come to, by name."""
    from ppcls.metric import build_metrics

    found = {}
    for index, (path, name, _) in enumerate(parts(section, metrics)):
        with explained(path, outputs, labels):
            built = build_metrics([metrics[index]])
            built(outputs, labels)
            if name != "ATTRMetric":
                built.avg_info  # noqa: B018  some compute their numbers where they are printed
            found.update(values_of(built.metric_func_list[0]))
    return found


def _try_distillation(engine: Any) -> None:
    """What goes wrong between teacher and student is known before the loop as well."""
    config = engine.config
    images, labels = engine.images_and_labels(first_batch_of(engine.train_dataloader, "DataLoader.Train"))
    with explained("Arch", images, labels), engine.precision.cast():
        outputs = engine.forward(images, labels)
    outputs = _finite(outputs)
    _require_as_many_classes(config, outputs)
    with engine.precision.cast():
        _try_losses("Loss.Train", config["Loss"]["Train"], outputs, labels)
    if config["Metric"].get("Train") and engine.train_metric_func is not None:
        _try_metrics("Metric.Train", config["Metric"]["Train"], outputs, labels)


def _require_as_many_classes(config: dict, outputs: Any) -> None:
    """Raises PpclsExtError where a loss compares the answers of two networks that tell different numbers of classes."""
    if not isinstance(outputs, Mapping):
        return
    networks = distilled_networks(config["Arch"])
    for path, _, fields in parts("Loss.Train", config["Loss"]["Train"]):
        for pair in fields.get("model_name_pairs") or ():
            told = [_classes(outputs.get(name), fields.get("key")) for name in pair]
            if None not in told and len(set(told)) > 1:
                names = (f"{name} ({networks.get(name, {}).get('name')}) tells {n}" for name, n in zip(pair, told))
                raise PpclsExtError(
                    f"{path} compares networks with different numbers of classes: {' and '.join(names)}: give both the "
                    "same class_num in Arch.models"
                )


def _classes(output: Any, key: str | None) -> int | None:
    """The number of classes of a network's answers (N, classes); None where they are something else."""
    found = output.get(key) if isinstance(output, Mapping) else output
    return found.shape[1] if isinstance(found, paddle.Tensor) and found.ndim == 2 else None


def _try_retrieval(engine: Any) -> None:
    """PaddleClas's own function, on one batch that is the queries and what is searched, all of one class."""
    from ppcls.metric import build_metrics
    from ppcls.utils import logger

    if engine.eval_loss_func is None:
        raise PpclsExtError(
            "Loss.Eval is missing: without one PaddleClas evaluates no retrieval: add that of Loss.Train"
        )
    trial, metrics = copy.copy(engine), engine.config["Metric"]["Eval"]
    needed = max([2, *(k for _, _, fields in parts("Metric.Eval", metrics) for k in _numbers(fields.get("topk", 5)))])
    for name in ("gallery_query", "gallery", "query"):
        loader = getattr(engine, f"{name}_dataloader", None)
        if loader is not None:
            setattr(trial, f"{name}_dataloader", _OfOneClass(loader, f"DataLoader.Eval ({name})", needed))
    trial.eval_metric_func = lambda *_: {"none": 0.0}
    with logging_from(logging.CRITICAL, logger._logger):
        with explained("Global.eval_mode retrieval"):
            engine.eval_func(trial)
        for index, (path, _, _) in enumerate(parts("Metric.Eval", metrics)):
            trial.eval_metric_func = build_metrics([metrics[index]])
            with explained(path):
                engine.eval_func(trial)


def _numbers(topk: Any) -> list[int]:
    return [k for k in (topk if isinstance(topk, (list, tuple)) else [topk]) if type(k) is int]


class _OfOneClass:
    """A loader's first batch, as often as it takes for as many images as metrics look at, but no more than there are.

    All images are of one class, so that there is something to find for each.
    """

    def __init__(self, loader: Any, section: str, needed: int) -> None:
        batch = first_batch_of(loader, section)
        size = len(batch[0])
        times = math.ceil(min(needed, len(loader.dataset)) / size)
        self._batches = []
        for index in range(times):
            numbers = paddle.arange(index * size, (index + 1) * size)
            self._batches.append([batch[0], paddle.zeros_like(batch[1]), *(numbers for _ in batch[2:])])
        self.dataset = range(min(times * size, len(loader.dataset)))

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[list]:
        return iter([list(batch) for batch in self._batches])


def first_batch_of(loader: Any, section: str) -> list:
    """The first batch of a loader, read in this process, whose sampler stays as it is.

    Raises:
        PpclsExtError: there is none, or it cannot be made.
    """
    with explained(section):
        indices = next(iter(copy.copy(loader.batch_sampler)), None)
    if indices is None:
        raise PpclsExtError(f"{section} makes no batch: lower sampler.batch_size, or set sampler.drop_last to false")
    return batch_of(loader, indices, section)


def batch_of(loader: Any, indices: Iterable[Any], section: str) -> list:
    """A batch of these images of a loader's list, read in this process.

    Raises:
        PpclsExtError: it cannot be made.
    """
    collate = inspect.unwrap(loader.collate_fn or default_collate_fn)  # without `note_failures`
    with explained(section):
        return list(map_structure(paddle.to_tensor, collate([loader.dataset[index] for index in indices])))


def _finite(outputs: Any) -> Any:
    """Outputs without NaN: weights that have not been trained may overflow, and this is not about their worth."""
    if isinstance(outputs, Mapping):
        return {name: _finite(output) for name, output in outputs.items()}
    if isinstance(outputs, (list, tuple)):
        return [_finite(output) for output in outputs]
    if not isinstance(outputs, paddle.Tensor) or not outputs.is_floating_point() or bool(outputs.isfinite().all()):
        return outputs
    return paddle.zeros_like(outputs)


@contextlib.contextmanager
def as_before(model: Any) -> Iterator[None]:
    """A context for which the model is in eval mode, and behind which it and all random numbers are as before."""
    modes = [(layer, layer.training) for layer in model.sublayers(include_self=True)]
    states = random.getstate(), np.random.get_state(), paddle.get_rng_state()
    model.eval()
    try:
        yield
    finally:
        for layer, training in modes:  # the outer ones come first, and set those inside, too
            (layer.train if training else layer.eval)()
        random.setstate(states[0])
        np.random.set_state(states[1])
        paddle.set_rng_state(states[2])


@contextlib.contextmanager
def explained(section: str, outputs: Any = None, labels: Any = None) -> Iterator[None]:
    """Turns an error of PaddleClas's or Paddle's in its body into a line that names the section of the configuration.

    Args:
        section: its path.
        outputs: of the network, or what else goes in.
        labels: of the same images.

    Raises:
        PpclsExtError: with the shapes of what went in.
    """
    try:
        yield
    except (PpclsExtError, OSError, SystemError, MemoryError):
        raise
    except Exception as error:
        if "DataLoader" in str(error):
            raise  # a process that loads images has died, which may be told at any place
        given = "" if outputs is None else f" on {_shapes(outputs)} with labels {_shapes(labels)}"
        raise PpclsExtError(
            f"{section} does not work{given}: {type(error).__name__}: {short(error)}; change it, or what it is "
            "computed of (Arch, DataLoader)"
        ) from error


def _shapes(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_shapes(item)}" for name, item in value.items())
    if isinstance(value, (list, tuple)):
        return " and ".join(map(_shapes, value))
    return "×".join(map(str, value.shape)) if hasattr(value, "shape") else type(value).__name__


def short(error: BaseException) -> str:
    """The text of an error in one line, without Paddle's traces."""
    text = re.sub(r"^.*Error Message Summary:\s*-*", "", str(error), flags=re.DOTALL)
    text = one_line(re.sub(r"\(at /.*", "", text, flags=re.DOTALL)) or "no message"
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}…"
