"""Devices: PaddleClas develop asks each of several processes for its GPU, which Paddle refuses on a CPU."""

from __future__ import annotations

import inspect

from ppcls_ext.hosts.adaptation import Adaptation, raises


def _device_is_missing() -> bool:
    import paddle
    from ppcls.engine.evaluation import classification

    asks = "ParallelEnv().device_id" in inspect.getsource(classification)
    return asks and raises(AttributeError, lambda: paddle.distributed.ParallelEnv().device_id)


def _device_0() -> None:
    import paddle

    paddle.distributed.ParallelEnv._device_id = 0  # PaddleClas asks for it also where it does not use it


ADAPTATIONS = (
    Adaptation("device of a CPU", "ppcls/engine/evaluation/classification.py", _device_is_missing, _device_0),
)
