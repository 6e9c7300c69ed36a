"""Mixed precision, by the section `AMP`: on GPUs as PaddleClas sets it up, on CPUs our own in bfloat16."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import paddle

from ppcls_ext.config.checks import precision_fault
from ppcls_ext.onednn.bfloat16 import mixed_precision


class Precision:
    """The precision of a training or evaluation; without `AMP`, everything is computed as it is.

    PaddleClas sees float16 on GPUs alone: mixed precision in bfloat16 needs no scaling of the loss, and its arguments
    know none.

    Args:
        engine: PaddleClas's, built.
        settings: the section `AMP`; empty for none.
    """

    def __init__(self, engine: Any, settings: Mapping[str, Any]) -> None:
        self._engine, self._settings = engine, settings
        scaler = getattr(engine, "scaler", None)  # PaddleClas has a stand-in of its own where there is no AMP
        self._scaler = scaler if isinstance(scaler, paddle.amp.GradScaler) else None
        config = engine.config
        self._on_cpu = config["Global"]["device"] == "cpu"
        self._is_bfloat16 = bool(settings) and (self._on_cpu or settings.get("dtype") == "bfloat16")
        if self._on_cpu and self._is_bfloat16:
            self._is_bfloat16 = precision_fault(config) is None

    def __str__(self) -> str:
        """What most is computed in, such as "float32"."""
        if self._is_bfloat16:
            return "mixed precision in bfloat16"
        if not self._settings or not self._engine.on_gpu:  # Paddle has it on GPUs alone
            return "float32"
        return f"mixed precision {str(self._settings.get('level') or 'O1').upper()}"

    def cast(self, evaluating: bool = False) -> contextlib.AbstractContextManager[Any]:
        """A context in which the network and the loss are computed."""
        engine = self._engine
        if self._is_bfloat16 or self._on_cpu:
            return mixed_precision(self._is_bfloat16 and (not evaluating or bool(self._settings.get("use_fp16_test"))))
        if hasattr(engine, "auto_cast"):  # PaddleClas since 2.5.2
            return engine.auto_cast(is_eval=evaluating)
        if not engine.amp or (evaluating and not engine.amp_eval):
            return contextlib.nullcontext()
        return paddle.amp.auto_cast(
            custom_black_list={"flatten_contiguous_range", "greater_than"}, level=engine.amp_level.upper()
        )

    def backward(self, loss: paddle.Tensor) -> None:
        """Adds the gradients of a loss, scaled where half precision needs it, to those of the parameters."""
        (loss if self._scaler is None else self._scaler.scale(loss)).backward()

    def update(self, optimizer: Any) -> None:
        """Lets an optimizer update its parameters, which it leaves alone where scaled gradients have overflowed."""
        if self._scaler is None:
            optimizer.step()
        else:
            self._scaler.step(optimizer)
            self._scaler.update()

    def state_dict(self) -> dict[str, Any]:
        """The scale of the loss, and what it is adapted by."""
        return {} if self._scaler is None else self._scaler.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what `state_dict` gave."""
        if self._scaler is not None and "scale" in state:
            self._scaler.load_state_dict({**state, "scale": np.asarray(state["scale"], np.float32)})
