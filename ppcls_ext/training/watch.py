"""Training and evaluation end at the first result that is no number, or no classifier's."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import paddle

from ppcls_ext.config.checks import is_ours
from ppcls_ext.errors import PpclsExtError

WHAT_TO_TRY = (
    "a lower Optimizer.lr.learning_rate, more warm-up (Optimizer.lr.warmup_epoch), Recipe.clip_global_norm, and "
    "with AMP, training without it"
)


class Watched:
    """A loss or metric of PaddleClas's that is looked at with each call; in everything else it is that one.

    Args:
        function: takes the network's outputs and the labels.
        outputs: called with the outputs, before it.
        result: called with what it gives.
    """

    def __init__(
        self, function: Callable, outputs: Callable[[Any], None], result: Callable[[Any], None] | None = None
    ) -> None:
        self._function, self._watch_outputs, self._watch_result = function, outputs, result

    def __call__(self, outputs: Any, *args: Any, **kwargs: Any) -> Any:
        """What the function gives."""
        self._watch_outputs(outputs)
        result = self._function(outputs, *args, **kwargs)
        if self._watch_result is not None:
            self._watch_result(result)
        return result

    def __getattr__(self, name: str) -> Any:
        return getattr(self._function, name)


def watch_training(engine: Any) -> None:
    """Makes `engine` raise PpclsExtError at a loss that is not finite, before it reaches the weights."""

    def watch(losses: dict) -> None:
        loss = losses["loss"].item()
        if not np.isfinite(loss):
            raise PpclsExtError(f"{engine.epochs.place}: the loss is {loss}; nothing of it is saved; try {WHAT_TO_TRY}")

    engine.train_loss_func = Watched(
        engine.train_loss_func, functools.partial(require_classifier, engine.config), watch
    )


def watch_evaluation(engine: Any) -> None:
    """Makes `engine` raise PpclsExtError where the network's outputs are not finite."""

    def watch(outputs: Any) -> None:
        require_classifier(engine.config, outputs)
        require_numbers(outputs)

    for name in ("eval_loss_func", "eval_metric_func"):
        if getattr(engine, name, None) is not None:
            setattr(engine, name, Watched(getattr(engine, name), watch))
            return  # both get the same outputs


def require_numbers(outputs: Any) -> None:
    """Raises PpclsExtError where a network's outputs hold NaN or infinity."""
    for tensor in paddle.utils.flatten(outputs):
        if isinstance(tensor, paddle.Tensor) and tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise PpclsExtError(
                "the network's outputs hold NaN or infinity: its weights do not fit these pictures or their "
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
            f"the network gives {list(outputs.shape[1:])} numbers a picture, and classification needs Arch.class_num, "
            f"{classes}: {cause}"
        )
