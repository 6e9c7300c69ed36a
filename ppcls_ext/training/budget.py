"""As many epochs as fit into a time (`Global.budget`, `--budget 30m`): measured in a trial, before the training."""

from __future__ import annotations

import math
import tempfile
import time

from paddle.distributed import get_world_size
from paddle.utils import unique_name

from ppcls_ext.config.budget import read_budget
from ppcls_ext.config.settings import RunSettings
from ppcls_ext.errors import PpclsExtError
from ppcls_ext.training.terminal import count_of, duration
from ppcls_ext.training.trial import Trial

#: Of the time that is left, the share that epochs may fill: the rest is for figures, checkpoints and a busier machine.
FILLED = 0.9
STEPS = 20  # of the trial, or as many as take
SHARE = 0.05  # of the time that is given


def with_epochs_that_fit(settings: RunSettings, began: float, quiet: bool = False) -> RunSettings:
    """A training's settings with as many epochs as `Global.budget` has room for, and no more than `Global.epochs`.

    The time of an epoch is that of its first batch, and of as many steps as it has; both are measured in a trial.
    The schedule of the learning rate and all else are those of a training with so many epochs.

    Args:
        settings: the training's, with its lists.
        began: when the command began, of `time.monotonic`; what has passed since counts.
        quiet: whether to say nothing of it.

    Raises:
        PpclsExtError: the budget is no time, has no room for an epoch, or the epochs are not free to be chosen.
    """
    budget = read_budget(settings)
    if budget is None:
        return settings
    if get_world_size() > 1:
        raise PpclsExtError(
            f"Global.budget (--budget) is for one process, and {get_world_size()} are training: give the epochs "
            "(--epochs)"
        )
    options = settings.section("Global")
    if not quiet:
        print(f"budget     {duration(budget)}: measuring how long an epoch takes", flush=True)
    start = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="ppcls_ext_") as folder, unique_name.guard():
        trial = Trial(settings, folder, STEPS, SHARE * budget)
        building = time.monotonic() - start
        steps = len(trial.engine.train_dataloader)
        if not steps:
            return settings  # the training itself says what is wrong
        trial.run()
        step, evaluation = trial.step_seconds(), trial.evaluation_seconds()
    epoch = trial.first_step if step is None else trial.reading + steps * step
    interval = options.get("eval_interval") or 1
    room = FILLED * (budget - (time.monotonic() - began) - building)
    fitting = math.floor(room / (epoch + evaluation / interval))
    takes = f"one takes {duration(epoch)}" + (f", its evaluation {duration(evaluation)}" if evaluation else "")
    if fitting < 1:
        least = (epoch + evaluation) / FILLED + (time.monotonic() - began) + building
        raise PpclsExtError(
            f"Global.budget (--budget) is {options['budget']!r}, which has no room for an epoch: {takes}; expected "
            f"{math.ceil(least / 60)}m or more, or fewer px (--size)"
        )
    epochs = min(fitting, options["epochs"])
    if not quiet:
        share = "all" if fitting >= options["epochs"] else f"{epochs} of"
        print(f"budget     {share} {count_of(options['epochs'], 'epoch')} fit; {takes}", flush=True)
    fitted = settings.changed("Global", epochs=epochs)
    del fitted.config["Global"]["budget"]  # config.yml names the epochs, and is the same training on any machine
    return fitted
