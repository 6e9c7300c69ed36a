"""The training loop: `train` goes through the epochs, `train_epoch` through the batches of one.

A step goes: batch, forward, losses, check that the loss is finite, backward; and where an update of the weights is due
(`Global.update_freq`): weight decay set, gradients clipped and applied, learning rate stepped, moving average updated.
Behind an epoch come the running statistics (of several processes, or `Recipe.precise_statistics`), the evaluation, the
checkpoints, and the observers in their order: the run's record, the terminal, metrics and figures, early stopping.

PaddleClas builds what is used here: loaders, model, losses, metrics, optimizers, schedules. Two things remain its own,
behind one call each: the epochs of `Global.train_mode` (`host_epoch`), which have two loaders or rebuild theirs, and
the evaluations of `Global.eval_mode` retrieval and adaface (`evaluation.evaluate`), which compare images in pairs.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import paddle.distributed as dist

from ppcls_ext.config.folder import KEY
from ppcls_ext.errors import PpclsExtError, unwrapped
from ppcls_ext.hosts.paddleclas.loader_processes import end_loading
from ppcls_ext.training.checkpoints import Checkpoints, seed_epoch
from ppcls_ext.training.evaluation import Evaluation, NotFiniteError, require_classifier
from ppcls_ext.training.first_batch import explained, short, try_parts
from ppcls_ext.training.host_log import as_number
from ppcls_ext.training.observers import Batch, Epoch, Observer
from ppcls_ext.weights.checkpoint_sets import how_to_resume

WHAT_TO_TRY = (
    "a lower Optimizer.lr.learning_rate, more warm-up (Optimizer.lr.warmup_epoch), Recipe.clip_global_norm, and "
    "with AMP, training without it"
)
#: Fields of `Arch` that freeze layers.
FREEZES = ("freeze_befor", "freeze_params_list")


class Trained(NamedTuple):
    """The result of training one epoch: see `observers.Epoch`."""

    seconds: float
    images: int
    averages: dict[str, float]


def train(engine: Any, checkpoints: Checkpoints, observers: Sequence[Observer]) -> None:
    """Trains from the first epoch, or from the one behind `Global.checkpoints`, to the last.

    Args:
        engine: ours, built in its mode "train".
        checkpoints: where the training is saved, and resumed from.
        observers: called in this order.

    Raises:
        TrainingEnds: an observer has ended the training.
        PpclsExtError: a loss or a metric cannot be computed, these or weights are not finite, images cannot be read,
            or a checkpoint cannot be read or written.
    """
    settings, recipe = engine.config["Global"], engine.recipe
    done = checkpoints.restore(settings["checkpoints"]) if settings["checkpoints"] is not None else 0
    recipe.begin(settings["checkpoints"])
    try_parts(engine)
    engine.global_step = done * engine.batches_per_epoch
    for observer in observers:
        observer.begin()
    for number in range(done + 1, settings["epochs"] + 1):
        seed_epoch(checkpoints.seed, number)  # resumed or not, an epoch draws the same random numbers
        shuffle(engine.train_dataloader, number)
        trained = host_epoch(engine, number) if engine.trains_by_host else train_epoch(engine, number, observers)
        recipe.average_statistics()  # several processes have seen different images
        evaluation, metric, is_best = None, 0.0, False
        if engine.evaluates_after(number) or number == settings["epochs"]:
            with saved_first(engine, checkpoints, number):
                recipe.compute_statistics(engine.train_dataloader)
        if engine.evaluates_after(number):
            with saved_first(engine, checkpoints, number):
                evaluation = evaluate_epoch(engine, number)
            if evaluation.thresholds is not None:
                checkpoints.facts.setdefault(KEY, {})["thresholds"] = list(evaluation.thresholds)
            metric = evaluation.value
            is_best = checkpoints.is_best(number, metric)
            if is_best:
                checkpoints.save("best_model", number, metric)
            engine.log_best(number, metric, checkpoints.best)
        if number % settings["save_interval"] == 0:
            checkpoints.save(f"epoch_{number}", number, metric)
        save_latest(engine, checkpoints, number, metric)
        rate = float(engine.lr_sch[0].get_lr()) if engine.lr_sch else math.nan
        epoch = Epoch(
            number, settings["epochs"], *trained[:2], rate, trained.averages, evaluation, is_best, checkpoints.best
        )
        for observer in observers:
            observer.epoch(epoch)


def train_epoch(engine: Any, number: int, observers: Sequence[Observer]) -> Trained:
    """Trains one epoch.

    Args:
        engine: ours, built in its mode "train".
        number: of the epoch, from 1.
        observers: told of the first batch and of each step.

    Raises:
        PpclsExtError: a loss is not finite, or too many images cannot be read.
    """
    recipe, precision, optimizers = engine.recipe, engine.precision, engine.optimizer
    steps, unreadable = engine.batches_per_epoch, engine.unreadable_images
    recipe.begin_epoch(number)
    unreadable.begin()
    log = engine.log_of_epoch(number)
    images_done, start = 0, time.monotonic()
    for step, batch in enumerate(batches(engine.train_dataloader, steps), 1):
        log.read()
        images, labels = engine.images_and_labels(batch)
        unreadable.check()
        if step == 1:
            before = time.monotonic()
            for observer in observers:
                observer.first_batch(images, labels)
            start += time.monotonic() - before  # not the training's own time

        with precision.cast():
            outputs = engine.forward(images, labels)
            require_classifier(engine.config, outputs)
            with explained("Loss.Train", outputs, labels):
                losses = engine.train_loss_func(outputs, labels)
            require_learning(engine.config, losses["loss"])
            losses = recipe.complete(losses, images, outputs)
        require_finite_loss(losses["loss"], f"epoch {number}, batch {step}")
        precision.backward(losses["loss"] / engine.update_freq)
        if step % engine.update_freq == 0:
            recipe.set_weight_decay()
            for optimizer in optimizers:
                precision.update(optimizer)  # clips the gradients first, where the recipe or the optimizer asks for it
            for optimizer in optimizers:
                # zeros would take memory, and the next gradients would be added to them; processes share theirs
                optimizer.clear_grad(set_to_zero=dist.get_world_size() > 1)
            step_schedules(engine.lr_sch, by_epoch=False)
            recipe.update_average()
            if engine.host_average is not None:
                engine.host_average.update(engine.model)

        images_done += len(images)
        with explained("Metric.Train", outputs, labels):
            metrics = engine.train_metrics(outputs, batch)
        log.trained(step, len(images), metrics, losses)
        seconds = time.monotonic() - start
        speed = images_done * dist.get_world_size() / max(seconds, 1e-9)
        for observer in observers:
            observer.batch(Batch(number, engine.epochs, step, steps, log.average("loss"), speed, seconds, log.waiting))
    step_schedules(engine.lr_sch, by_epoch=True)
    unreadable.report(number)
    return Trained(time.monotonic() - start, images_done * dist.get_world_size(), log.end())


def host_epoch(engine: Any, number: int) -> Trained:
    """Trains one epoch with PaddleClas's function for `Global.train_mode`.

    Raises:
        PpclsExtError: a loss was not finite.
    """
    end_loading(vars(engine).pop("train_dataloader_iter", None))  # of the epoch before, with the rest of its data
    engine.unreadable_images.begin()
    log, start = engine.log_of_epoch(number), time.monotonic()
    engine.train_epoch_func(engine, number, engine.config["Global"]["print_batch_step"])
    engine.unreadable_images.report(number)
    if math.isnan(log.average("loss")) or math.isinf(log.average("loss")):
        raise _not_finite(f"epoch {number}", log.average("loss"))
    size = getattr(getattr(engine.train_dataloader, "batch_sampler", None), "batch_size", 0)
    images = engine.batches_per_epoch * size * dist.get_world_size()
    return Trained(time.monotonic() - start, images, log.end())


def evaluate_epoch(engine: Any, number: int) -> Evaluation:
    """Evaluates after an epoch; the evaluation's value is the one that decides (`config.best`).

    With PaddleClas's own moving average (the section `EMA`), which is evaluated too, it is the better one of the two.
    """
    value = engine.eval(number)
    evaluation = engine.evaluations[0]
    for schedule in engine.lr_sch:
        if is_by_epoch(schedule) and waits_for_metric(schedule):
            schedule.step(value)
    if engine.host_average is not None and engine.best_by.is_better(engine.evaluate_host_average(number), value):
        evaluation = engine.evaluations[0]
    return evaluation


def save_latest(engine: Any, checkpoints: Checkpoints, number: int, metric: float) -> None:
    """Saves the epoch as the one to resume from; from the first one on, the run's folder is this training's."""
    checkpoints.save("latest", number, metric)
    engine.first_epoch_is_saved()


@contextlib.contextmanager
def saved_first(engine: Any, checkpoints: Checkpoints, number: int) -> Iterator[None]:
    """A context for an evaluation: where it fails, the epoch that it is of is saved before the error is told.

    Weights whose outputs are no numbers are not: the epoch before is worth more.
    """
    try:
        yield
    except NotFiniteError:
        raise
    except Exception as error:
        if isinstance(unwrapped(error), KeyboardInterrupt):
            raise
        save_latest(engine, checkpoints, number, 0.0)
        what = str(error) if isinstance(error, PpclsExtError) else f"{type(error).__name__}: {short(error)}"
        latest = engine.folder / "latest.pdparams"
        now = how_to_resume(engine.folder) if number < engine.epochs else f"then evaluate it: ppcls-ext eval {latest}"
        raise PpclsExtError(
            f"the evaluation after epoch {number} failed, and that epoch is saved as latest: {what}; {now}"
        ) from error


def batches(loader: Iterable[Any], count: int) -> Iterator[Any]:
    """Gives `count` batches, beginning anew where the loader ends before."""
    iterator = iter(loader)
    try:
        for _ in range(count):
            try:
                yield next(iterator)
            except StopIteration:
                if hasattr(loader, "reset"):
                    loader.reset()  # DALI's
                iterator = iter(loader)
                batch = next(iterator, None)
                if batch is None:
                    raise no_batch() from None
                yield batch
    finally:
        end_loading(iterator)


def no_batch() -> PpclsExtError:
    """The error where a training has nothing to train on."""
    return PpclsExtError(
        "DataLoader.Train makes no batch: lower sampler.batch_size, set sampler.drop_last to false, or give it a list "
        "with as many classes as its sampler wants"
    )


def shuffle(loader: Any, number: int) -> None:
    """Lets the sampler choose the order of an epoch, counted from 1."""
    sampler: Any = getattr(loader, "batch_sampler", None)
    if hasattr(sampler, "set_epoch"):
        sampler.set_epoch(number - 1)


def step_schedules(schedules: Iterable[Any], by_epoch: bool) -> None:
    """Steps the schedules of the learning rate that change with each update, or those that change with each epoch."""
    for schedule in schedules:
        if is_by_epoch(schedule) == by_epoch and not (by_epoch and waits_for_metric(schedule)):
            schedule.step()


def is_by_epoch(schedule: Any) -> bool:
    """Returns whether a schedule of the learning rate is stepped once an epoch."""
    return bool(getattr(schedule, "by_epoch", False))


def waits_for_metric(schedule: Any) -> bool:
    """Returns whether a schedule of the learning rate is stepped with the metric of an evaluation."""
    return type(schedule).__name__ == "ReduceOnPlateau"


def require_learning(config: dict, loss: Any) -> None:
    """Raises PpclsExtError where no parameter gets a gradient from a loss."""
    if getattr(loss, "stop_gradient", False):
        frozen = [f"Arch.{field} is {config['Arch'][field]}" for field in FREEZES if config["Arch"].get(field)]
        cause = f": {', '.join(frozen)}; name an earlier layer" if frozen else ": unfreeze some of its layers"
        raise PpclsExtError(f"nothing learns: no parameter of the network gets a gradient{cause}")


def require_finite_loss(loss: Any, place: str) -> None:
    """Raises PpclsExtError where a loss is NaN or infinite, before it reaches the weights."""
    value = as_number(loss)
    if not np.isfinite(value):
        raise _not_finite(place, value)


def _not_finite(place: str, loss: float) -> PpclsExtError:
    return PpclsExtError(f"{place}: the loss is {loss}; nothing of it is saved; try {WHAT_TO_TRY}")
