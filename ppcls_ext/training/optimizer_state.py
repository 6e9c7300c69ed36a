"""The saved state of an optimizer: whether it is that of the optimizer that will go on with it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ppcls_ext.errors import PpclsExtError


def check_names(path: Path, optimizer: Any, state: Mapping[str, Any]) -> None:
    """Paddle would leave out, without a word, what it has no parameter for."""
    groups = optimizer._parameter_list or ()
    parameters = [p for group in groups for p in (group["params"] if isinstance(group, dict) else [group])]
    names = {parameter.name for parameter in parameters}
    found = set()
    for key in state:
        if key in ("LR_Scheduler", "master_weights"):
            continue
        parts = key.split("_")
        owned = [length for length in range(1, len(parts)) if "_".join(parts[:length]) in names]
        found.update("_".join(parts[length:-1]) for length in owned[-1:])
        if not owned:
            raise PpclsExtError(
                f"{path} does not fit: it holds {key}, and the optimizer has no such parameter; resume with the "
                "architecture and the optimizer of that training"
            )
    _check_kinds(path, optimizer, found)


def _check_kinds(path: Path, optimizer: Any, found: set[str]) -> None:
    """Paddle fails in the first step, or starts some of an optimizer's memory from zero without a word."""
    texts = [name for name in dir(type(optimizer)) if re.fullmatch(r"_\w*_acc_(\w+_)?str", name)]
    kept = {getattr(optimizer, name) for name in texts}
    if found - kept or (kept and not found):
        raise PpclsExtError(
            f"{path} is of another optimizer: it holds {', '.join(sorted(found)) or 'nothing'}, and "
            f"{type(optimizer).__name__} keeps {', '.join(sorted(kept)) or 'nothing'}; resume with the optimizer of "
            "that training"
        )


def with_tensors(state: Mapping[str, Any]) -> dict[str, Any]:
    """`state` with Paddle's tensors for NumPy's arrays, which `set_state_dict` would take for something else."""
    import paddle

    made = {}
    for name, value in state.items():
        if isinstance(value, np.ndarray):
            value = paddle.to_tensor(value)
        made[name] = with_tensors(value) if isinstance(value, dict) else value
    return made
