"""An evaluation: over exactly the images of the list, ended by the first output that is not finite."""

from __future__ import annotations

import platform
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import paddle
import paddle.distributed as dist

from ppcls_ext.config.best import F1_MACRO, METRICS, BestBy
from ppcls_ext.config.checks import is_ours
from ppcls_ext.data.lists import MULTI_LABEL
from ppcls_ext.errors import PpclsExtError
from ppcls_ext.hosts.paddleclas.loader_processes import batches_of
from ppcls_ext.progress import progress
from ppcls_ext.report.label_scores import LabelScores, choose_thresholds, measures, per_class, sigmoid
from ppcls_ext.report.predictions import Predictions, Ranked, macro_f1, ranked
from ppcls_ext.training.host_log import EvaluationLog, as_number
from ppcls_ext.training.loaders import require_read

#: Of PaddleClas's metrics of several labels, which know no thresholds.
AT_ONE_HALF = "PaddleClas's, which takes 0.5 as every threshold"


class Evaluation(NamedTuple):
    """The result of an evaluation.

    Attributes:
        metric: the name of the metric that decides in a training (`config.best`), elsewhere of the first one.
        value: that metric.
        metrics: all of them, and the "loss" where there is one.
        images: how many were evaluated; 0 where PaddleClas does not count them.
        thresholds: for several labels an image, the score of each class from which on an image was said to show it.
        classes: and a row for each class; see `ppcls_ext.report.label_scores.per_class`.
        note: what a reader of the figures should know.
    """

    metric: str
    value: float
    metrics: dict[str, float]
    images: int
    thresholds: tuple[float, ...] | None = None
    classes: Sequence[Mapping[str, Any]] = ()
    note: str = ""

    def __str__(self) -> str:
        values = {self.metric: self.value, **self.metrics}
        loss = values.pop("loss", None)
        over = f" over {self.images} images" if self.images else ""
        text = ", ".join(f"{name} {value:.4f}" for name, value in values.items()) + over
        text += f" ({self.note})" if self.note else ""
        return text if loss is None else f"{text}, loss {loss:.4f}"


class Answers:
    """The network's answers to the images of one evaluation, of which reports and further measures are made.

    Args:
        task: "single-label" or "multi-label".
        needed: whether `add` refuses outputs of another kind, as for a report; otherwise they are left out.

    Attributes:
        seconds: that the evaluation took.
    """

    def __init__(self, task: str, needed: bool = False) -> None:
        self._task, self._needed = task, needed
        self.clear()

    def clear(self) -> None:
        """Forgets all answers, before another evaluation."""
        self._logits: list[np.ndarray] = []
        self._ranked: list[Ranked] = []
        self._labels: list[np.ndarray] = []
        self._classes, self.seconds, self._begin = 0, 0.0, time.perf_counter()

    def end(self) -> None:
        """Takes the time since `clear`."""
        self.seconds = time.perf_counter() - self._begin

    def add(self, outputs: Any, labels: Any) -> None:
        """Takes in the network's outputs (N, classes) and the labels of a batch.

        Raises:
            PpclsExtError: the outputs are of another kind, and needed.
        """
        if self._task == MULTI_LABEL:
            logits, several = logits_and_labels(outputs, labels)
            self._logits.append(logits)
            self._labels.append(several)
        elif isinstance(outputs, paddle.Tensor) and outputs.ndim == 2 and labels.size == len(outputs):
            # all probabilities of 100,000 images and 21,000 classes would take 8 GB
            logits, true = outputs.astype("float32").numpy(), labels.numpy().reshape(-1)
            self._classes = logits.shape[1]
            self._ranked.append(ranked(logits, true, are_logits=True))
            self._labels.append(true)
        elif self._needed:
            raise PpclsExtError("a report needs a network that gives one number a class for each image")

    @property
    def labels(self) -> np.ndarray:
        """(N,) class indices, or (N, classes) 0 or 1."""
        return np.concatenate(self._labels)

    @property
    def logits(self) -> np.ndarray:
        """(N, classes), of several labels an image."""
        return np.concatenate(self._logits)

    def found(
        self,
        thresholds: Sequence[float] | None = None,
        paths: Sequence[str] | None = None,
        names: Sequence[str] | None = None,
    ) -> Predictions | LabelScores | None:
        """Returns the answers; None where there are none, as the network gives something else than a row an image.

        Args:
            thresholds: of the classes, for several labels an image.
            paths: of the images.
            names: of the classes; None where they have none.
        """
        if not self._labels:
            return None
        labels = self.labels
        paths = [""] * len(labels) if paths is None else paths
        if self._task == MULTI_LABEL:
            return LabelScores(paths, labels, sigmoid(self.logits), thresholds or (), names).check()
        return Predictions.of_batches(paths, labels, self._ranked, self._classes, names).check()


class NotFiniteError(PpclsExtError):
    """Outputs or a metric are no numbers: the weights are worth nothing."""


def evaluate(engine: Any, epoch: int) -> list[Evaluation]:
    """Evaluates the model as it is.

    Args:
        engine: ours, built in its mode "train" or "eval".
        epoch: its number, for the log.

    Returns:
        An `Evaluation` for each count of images, usually one in all; the first one has the metric that decides. For
        several labels an image, one of this project's metrics stands before PaddleClas's.

    Raises:
        PpclsExtError: outputs or that metric are not finite, the network has no fitting classifier, or an image cannot
            be read.
    """
    metrics = getattr(engine, "eval_metric_func", None)
    engine.model.eval()
    try:
        with paddle.no_grad():
            if engine.eval_mode == "classification":
                several, by_f1 = (
                    engine.task == MULTI_LABEL,
                    engine.best_by is not None and engine.best_by.name == F1_MACRO,
                )
                answers = Answers(engine.task) if engine.answers is None and (several or by_f1) else engine.answers
                first, loss = _classify(engine, epoch, answers)
                if not several:
                    found = _read(metrics, first, loss)
                    answered = answers.found() if by_f1 else None
                    if isinstance(answered, Predictions):
                        found[0].metrics[F1_MACRO] = macro_f1(answered)
                else:
                    hosts = (evaluation._replace(note=AT_ONE_HALF) for evaluation in _read(metrics, first, None))
                    found = [_of_several_labels(engine, answers, loss), *hosts]
            else:  # retrieval and adaface compare images with each other: PaddleClas's own function does
                found = _compare(engine, epoch, metrics)
    finally:
        engine.model.train()
    if engine.best_by is not None:
        found = _decided(found, engine.best_by)
    if not np.isfinite(found[0].value):
        raise NotFiniteError(
            f"epoch {epoch}: the metric {found[0].metric} is {found[0].value}, which says nothing of the weights"
        )
    return found


def _decided(found: list[Evaluation], best_by: BestBy) -> list[Evaluation]:
    """The evaluations, first the one that has the metric that decides."""
    for evaluation in found:
        if (value := evaluation.metrics.get(best_by.name)) is not None:
            rest = [other for other in found if other is not evaluation]
            # this project's own stay with it: thresholds belong to the weights, whatever decides
            own, metrics = found[0], {**evaluation.metrics, **found[0].metrics}
            return [Evaluation(best_by.name, value, metrics, evaluation.images, own.thresholds, own.classes), *rest]
    names = ", ".join(name for evaluation in found for name in evaluation.metrics)
    raise PpclsExtError(f"{best_by.name} is to decide which epoch is the best, and the evaluation gives {names}")


def _compare(engine: Any, epoch: int, metrics: Any) -> list[Evaluation]:
    """An evaluation by PaddleClas's function, which returns one metric: the others are noted where they are made."""
    sums: dict[str, float] = {}
    queries = 0

    def note(layer: Any, inputs: tuple, outputs: dict) -> None:
        nonlocal queries
        count = len(inputs[1])  # PaddleClas makes the metrics of some queries at a time
        queries += count
        for name, value in outputs.items():
            sums[name] = sums.get(name, 0.0) + as_number(value) * count

    hook = metrics.register_forward_post_hook(note) if engine.eval_mode == "retrieval" else None
    try:
        first = float(engine.eval_func(engine, epoch))
    finally:
        if hook is not None:
            hook.remove()
    values = {name: value / queries for name, value in sums.items()} or {"all_test_acc": first}
    return [Evaluation(next(iter(values)), first, values, 0)]


def _of_several_labels(engine: Any, answers: Answers, loss: float | None) -> Evaluation:
    labels = answers.labels
    scores, thresholds = sigmoid(answers.logits), engine.thresholds(labels.shape[1])
    thresholds = choose_thresholds(labels, scores) if thresholds is None else thresholds
    found = LabelScores([""] * len(labels), labels, scores, thresholds, engine.settings.class_names)
    values, rows = measures(found), per_class(found)
    absent = [row["name"] for row in rows if not row["images"]]
    if len(absent) == len(rows):
        raise PpclsExtError("no evaluated image shows any class, so that mAP says nothing: evaluate on others")
    if absent:
        names = ", ".join(absent[:5]) + (", …" if len(absent) > 5 else "")
        engine.say_once(f"mAP leaves out {len(absent)} of {len(rows)} classes, which no evaluated image shows: {names}")
    if loss is not None:
        values["loss"] = loss
    return Evaluation("mAP", values["mAP"], values, len(labels), tuple(thresholds), rows)


def logits_and_labels(outputs: Any, labels: paddle.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """The network's answers for several labels an image, and the labels, both (N, classes).

    Raises:
        PpclsExtError: the network gives something else than one number for each class.
    """
    given = labels[:, 0] if labels.ndim == 3 else labels  # with `label_ratio`, the classes' shares stand below
    if not isinstance(outputs, paddle.Tensor) or outputs.shape != given.shape:
        got = list(outputs.shape) if isinstance(outputs, paddle.Tensor) else type(outputs).__name__
        raise PpclsExtError(
            f"the network gives {got} for labels {list(given.shape)}: expected one number for each class; mend Arch"
        )
    return outputs.astype("float32").numpy(), given.numpy().astype(np.int64)


def _classify(engine: Any, epoch: int, answers: Answers | None) -> tuple[float | None, float | None]:
    """The first metric, and the average loss where there is one; `answers` get those of this evaluation."""
    if answers is not None:
        answers.clear()
    compute_loss, compute_metric = engine.eval_loss_func, engine.eval_metric_func
    if hasattr(compute_metric, "reset"):
        compute_metric.reset()
    log = EvaluationLog(engine, epoch)
    for step, images, labels, outputs in _shown(engine, _outputs(engine, log)):
        require_classifier(engine.config, outputs)
        require_finite_outputs(outputs)
        if compute_loss is not None:
            with engine.precision.cast(evaluating=True):
                losses = compute_loss(outputs, labels)
            log.add(losses, len(labels))
        if compute_metric is not None:
            compute_metric(outputs, labels)
        if answers is not None:
            answers.add(outputs, labels)
        log.step(step, images)
    if answers is not None:
        answers.end()
    return log.end(), log.average("loss")


def _shown(engine: Any, outputs: Iterator[tuple[int, int, Any, Any]]) -> Iterator[tuple[int, int, Any, Any]]:
    """The same, with a bar where it takes longer than two seconds, on the first process."""
    if not engine.is_shown or dist.get_rank() > 0 or engine.use_dali:
        yield from outputs
        return
    done, total = 0, len(engine.eval_dataloader.dataset)
    with progress("evaluating") as report:
        for batch in outputs:
            yield batch
            done += len(batch[2])
            if done < total:
                report(done, total)


def _outputs(engine: Any, log: EvaluationLog) -> Iterator[tuple[int, int, paddle.Tensor, Any]]:
    """For each batch: its index, its number of images, and the labels and outputs of it on all processes."""
    loader, seen = engine.eval_dataloader, 0
    steps = len(loader) - (platform.system() == "Windows")
    total = loader.size if engine.use_dali else len(loader.dataset)
    for step, batch in enumerate(batches_of(loader)):
        if step >= steps:
            break
        log.read()
        images, labels = engine.images_and_labels(batch, evaluating=True)
        if not engine.use_dali:
            require_read(loader.dataset)
        outputs = answers_to(engine, images, labels)
        if dist.get_world_size() > 1:
            labels = _gather(labels.cuda(dist.ParallelEnv().device_id) if engine.on_gpu else labels)
            outputs = [_gather(output) for output in outputs] if isinstance(outputs, list) else _gather(outputs)
            # the sampler repeats images so that all processes have as many: those at the end are left out
            seen += len(labels)
            if seen > total and not engine.use_dali:
                kept = len(labels) - (seen - total)
                labels = labels[:kept]
                outputs = [output[:kept] for output in outputs] if isinstance(outputs, list) else outputs[:kept]
        yield step, len(images), labels, outputs
    if engine.use_dali:
        loader.reset()


def answers_to(engine: Any, images: Any, labels: Any) -> Any:
    """The outputs of which an evaluation computes losses and metrics: the student's, and of these the logits."""
    with engine.precision.cast(evaluating=True):
        outputs = engine.forward(images, labels)
    for key in ("Student", "logits"):
        outputs = outputs[key] if isinstance(outputs, dict) and key in outputs else outputs
    return outputs


def _gather(tensor: paddle.Tensor) -> paddle.Tensor:
    """The tensors of all processes, one behind the other."""
    parts: list[paddle.Tensor] = []
    dist.all_gather(parts, tensor)
    return paddle.concat(parts, 0)


def _read(metrics: Any, first: Any, loss: float | None) -> list[Evaluation]:
    """One `Evaluation` for each count of images in PaddleClas's metrics."""
    found = []
    others: dict[str, float] = {}
    for metric in getattr(metrics, "metric_func_list", ()):
        meters = getattr(metric, "avg_meters", {})
        # the count is the number of images that went in, whatever the sampler left out or repeated
        for count in sorted({meter.count for meter in meters.values()}):
            values = {name: float(meter.avg) for name, meter in meters.items() if meter.count == count}
            name, value = next(iter(values.items()))
            found.append(Evaluation(name, value, values, count))
        if not hasattr(metric, "avg_meters"):
            others.update(values_of(metric))
    if found:
        found[0].metrics.update(others)
    elif others:
        name, value = next(iter(others.items()))
        found.append(Evaluation(name, value, others, 0))
    else:
        found.append(Evaluation("metric", float("nan") if first is None else float(first), {}, 0))
    if loss is not None:
        found[0].metrics["loss"] = loss
    return found


def values_of(metric: Any) -> dict[str, float]:
    """The numbers of one of PaddleClas's metrics, by name, behind a batch or an evaluation."""
    if hasattr(metric, "avg_meters"):
        return {name: float(meter.avg) for name, meter in metric.avg_meters.items()}
    name = type(metric).__name__
    if hasattr(metric, "attrmeter"):
        return dict(zip(METRICS[name].outputs, map(float, metric.attrmeter.res())))
    return {name: float(metric.avg)} if hasattr(metric, "avg") else {}


def require_finite_outputs(outputs: Any) -> None:
    """Raises NotFiniteError where a network's outputs hold NaN or infinity."""
    for tensor in paddle.utils.flatten(outputs):
        if isinstance(tensor, paddle.Tensor) and tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise NotFiniteError(
                "the network's outputs hold NaN or infinity: its weights do not fit these images or their "
                "preprocessing (or, with AMP, half precision)"
            )


def require_classifier(config: dict, outputs: Any) -> None:
    """Raises PpclsExtError where a plain network does not end in a classifier of `Arch.class_num` classes."""
    arch = config["Arch"]
    classes = arch.get("class_num", 1000 if is_ours(config) else None)
    if not isinstance(outputs, paddle.Tensor) or type(classes) is not int or "Head" in arch or arch.get("is_rec"):
        return
    if outputs.ndim != 2 or outputs.shape[1] != classes:
        cut = [f"Arch.{field}" for field in ("stop_after", "return_stages", "return_patterns") if arch.get(field)]
        cause = f"{cut[0]} leaves the classifier out: remove it" if cut else "mend Arch"
        raise PpclsExtError(
            f"the network gives {list(outputs.shape[1:])} numbers per image, and classification needs Arch.class_num, "
            f"{classes}: {cause}"
        )
