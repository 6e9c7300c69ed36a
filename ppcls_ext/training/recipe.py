"""The recipe at work in PaddleClas's engine.

The engine stays as it is: its function for one epoch, its loss and its optimizers' `step` and `minimize`, attributes of
their objects, are wrapped.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from paddle import nn
from paddle.optimizer import Optimizer

from ppcls_ext.config.recipe import CALIBRATION_PICTURES, Settings
from ppcls_ext.training.clipping import clip_global_norm
from ppcls_ext.training.custom_l2 import LossWithCustomL2, kernels_of_custom_l2
from ppcls_ext.training.ema import Average
from ppcls_ext.training.head_learning_rate import multiply_head_learning_rate
from ppcls_ext.training.progressive import Curriculum
from ppcls_ext.training.running_statistics import average_statistics
from ppcls_ext.training.unfused_start import load_fused, start_unfused
from ppcls_ext.training.weight_decay import AnnealedDecay


class Training:
    """One training with a recipe: made before the engine is built, then attached to it, then begun.

    Args:
        settings: checked.
        arch: the section `Arch`; with `unfuse`, its `pretrained` is taken out and loaded.

    Raises:
        PpclsExtError: with `unfuse`, the weights are not fused or not this architecture's.
    """

    def __init__(self, settings: Settings, arch: dict) -> None:
        self._settings = settings
        self._fused = load_fused(arch) if settings.unfuse is not None else None
        self._average: Average | None = None
        self._decay: AnnealedDecay | None = None
        self._curriculum: Curriculum | None = None
        self._stage = ""
        self._step = 0  # updates done, over all epochs

    def attach(self, engine: Any, network: nn.Layer) -> None:
        """Connects the recipe to a built engine.

        Args:
            engine: PaddleClas's, in its mode "train".
            network: its model, without a wrapper for several processes.
        """
        from ppcls.utils import logger

        settings, epochs = self._settings, engine.config["Global"]["epochs"]
        if settings.progressive:
            self._curriculum = Curriculum(settings.progressive, engine.train_dataloader.dataset)
            self._curriculum.set(1)
            unreached = [stage.epoch for stage in settings.progressive if stage.epoch > epochs]
            if unreached:
                logger.warning(f"[Recipe] the stages from epoch {unreached[0]} are not reached in {epochs} epochs")
        if settings.head_learning_rate is not None:
            multiply_head_learning_rate(network, settings.head_learning_rate)
        if settings.clip_global_norm is not None:
            clip_global_norm(engine.optimizer, settings.clip_global_norm)
        if self._fused is not None:
            asked = settings.unfuse.pictures
            used = start_unfused(network, self._fused, engine.train_dataloader, asked or CALIBRATION_PICTURES)
            self._fused = None
            logger.info(f"[Recipe] unfused weights, calibrated on {used} pictures")
            if asked is not None and used < asked:
                logger.warning(f"[Recipe] Recipe.unfuse asks for {asked} pictures, and an epoch has only {used}")
        decayed_by_loss = set()
        if settings.custom_l2 is not None:
            engine.train_loss_func = LossWithCustomL2(engine.train_loss_func, network, settings.custom_l2)
            decayed_by_loss = {kernel.name for kernel in kernels_of_custom_l2(network)}
        updates_per_epoch = count_updates(engine)
        if settings.weight_decay is not None:
            kernels = [weight for weight in network.parameters() if weight.ndim > 1]
            kernels = [kernel for kernel in kernels if kernel.name not in decayed_by_loss]
            self._decay = AnnealedDecay(settings.weight_decay, updates_per_epoch * epochs, kernels, engine.optimizer)
        self._network = network
        self._follow_epochs(engine, updates_per_epoch)
        self._follow_updates(engine.optimizer)

    def begin(self, checkpoints: str | None) -> None:
        """Starts the average from the model as it is now, or from the file beside `checkpoints`, a path without suffix.

        Raises:
            PpclsExtError: that file cannot be read or is another model's.
        """
        if self._settings.ema is None:
            return
        self._average = Average(self._network, self._settings.ema)
        if checkpoints is not None:
            self._average.load(f"{checkpoints}.ema.pdparams")

    @property
    def averages(self) -> bool:
        """Whether the weights that are evaluated, and saved as the best model's, are an average."""
        return self._settings.ema is not None

    def evaluated(self) -> contextlib.AbstractContextManager[None]:
        """Inside, the model holds the weights that are evaluated: the average where there is one."""
        return self._average.in_model() if self._average is not None else contextlib.nullcontext()

    def files(self, path: Path, state: Any) -> Iterator[tuple[Path, Any]]:
        """What to write for a file that PaddleClas saves: paths and contents.

        The best model's weights are the average, which is what was evaluated; the optimizer's state, of no use with it,
        is left out. Every other checkpoint keeps the trained weights, to resume from, and gets the average in a file
        beside it.
        """
        is_best = "best_model" in (path.stem, path.parent.name)
        if self._average is not None and is_best and path.suffix == ".pdopt":
            return
        if self._average is None or path.suffix != ".pdparams":
            yield path, state
        elif is_best:
            yield path, {**state, **self._average.state}
        else:
            yield path.with_suffix(".ema.pdparams"), self._average.state
            yield path, state

    def _follow_epochs(self, engine: Any, updates_per_epoch: int) -> None:
        train_epoch = engine.train_epoch_func

        @functools.wraps(train_epoch)
        def train_epoch_with_recipe(engine: Any, epoch_id: int, *args: Any) -> None:
            self._step = (epoch_id - 1) * updates_per_epoch  # PaddleClas counts from 0 again when it resumes
            if self._curriculum is not None:
                self._start_stage(epoch_id)
            train_epoch(engine, epoch_id, *args)
            average_statistics(self._network.state_dict())
            if self._average is not None:
                average_statistics(self._average.state)

        engine.train_epoch_func = train_epoch_with_recipe

    def _start_stage(self, epoch: int) -> None:
        from ppcls.utils import logger

        stage = self._curriculum.set(epoch)
        if stage != self._stage:
            logger.info(f"[Recipe] from epoch {epoch}: {stage}")
            self._stage = stage

    def _follow_updates(self, optimizers: list[Optimizer]) -> None:
        """All optimizers are stepped once per update, one after the other."""
        for optimizer in optimizers:
            # PaddleClas 2.4 calls minimize where it uses AMP
            for name in ("step", "minimize"):
                is_last = optimizer is optimizers[-1]
                setattr(optimizer, name, self._with_recipe(getattr(optimizer, name), is_last))

    def _with_recipe(self, update: Callable, is_last: bool) -> Callable:
        @functools.wraps(update)
        def update_with_recipe(*args: Any, **kwargs: Any) -> Any:
            if self._decay is not None:
                self._decay.set(self._step)
            result = update(*args, **kwargs)
            if is_last:
                if self._average is not None:
                    self._average.update(self._step)
                self._step += 1
            return result

        return update_with_recipe


def count_updates(engine: Any) -> int:
    """Updates of the weights in one epoch of PaddleClas's engine."""
    batches = getattr(engine, "iter_per_epoch", None) or len(engine.train_dataloader)
    return batches // getattr(engine, "update_freq", 1)
