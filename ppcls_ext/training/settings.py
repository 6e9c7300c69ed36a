"""The section `Recipe`: its fields, their types and ranges, and what they cannot be combined with."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from typing import Any, NamedTuple

from ppcls_ext.errors import PpclsExtError

#: Pictures that unfused weights are calibrated on where the configuration does not say.
CALIBRATION_PICTURES = 512


class Ema(NamedTuple):
    """See `ppcls_ext.training.ema`."""

    decay: float
    warmup: bool = True


class Decay(NamedTuple):
    """See `ppcls_ext.training.weight_decay`."""

    start: float
    end: float


class Stage(NamedTuple):
    """From which epoch (the first is 1) at which size (px) and strength; None leaves it as it was."""

    epoch: int
    size: int | None = None
    strength: float | None = None


class Unfuse(NamedTuple):
    """How many pictures to calibrate on; None: `CALIBRATION_PICTURES`, or all of an epoch that has fewer."""

    pictures: int | None = None


class Settings(NamedTuple):
    """The section `Recipe`; what is None (or empty) is off."""

    ema: Ema | None = None
    weight_decay: Decay | None = None
    progressive: tuple[Stage, ...] = ()
    custom_l2: float | None = None
    head_learning_rate: float | None = None
    clip_global_norm: float | None = None
    unfuse: Unfuse | None = None


def read_settings(config: dict) -> Settings:
    """The section `Recipe` of a configuration.

    Raises:
        PpclsExtError: an unknown field, a wrong type or a value out of range.
    """
    section = config.get("Recipe")
    if section is None:
        return Settings()
    fields = _mapping("Recipe", section, Settings._fields)
    readers: dict[str, Callable[[str, Any], Any]] = {
        "ema": _read_ema,
        "weight_decay": _read_decay,
        "progressive": _read_stages,
        "custom_l2": lambda path, value: _number(path, value, 0),
        "head_learning_rate": lambda path, value: _number(path, value, 0),
        "clip_global_norm": _read_clip,
        "unfuse": _read_unfuse,
    }
    return Settings(
        **{name: readers[name](f"Recipe.{name}", value) for name, value in fields.items() if value is not None}
    )


def _read_ema(path: str, value: Any) -> Ema:
    fields = _mapping(path, value, Ema._fields, required=("decay",))
    warmup = fields.get("warmup", True)
    if not isinstance(warmup, bool):
        raise PpclsExtError(f"{path}.warmup is {warmup!r}: expected true or false")
    decay = _number(f"{path}.decay", fields["decay"], 0, 1)
    if decay == 1:
        raise PpclsExtError(f"{path}.decay is 1: expected less; the average would never move")
    return Ema(decay, warmup)


def _read_clip(path: str, value: Any) -> float:
    norm = _number(path, value, 0)
    if norm == 0:
        raise PpclsExtError(f"{path} is 0: expected more; nothing would be trained")
    return norm


def _read_decay(path: str, value: Any) -> Decay:
    fields = _mapping(path, value, Decay._fields, required=Decay._fields)
    return Decay(*(_number(f"{path}.{name}", fields[name], 0, 1) for name in Decay._fields))


def _read_stages(path: str, value: Any) -> tuple[Stage, ...]:
    if not isinstance(value, (list, tuple)) or not value:
        raise PpclsExtError(f"{path} is {value!r}: expected a list of stages such as {{epoch: 1, size: 160}}")
    stages = []
    for index, item in enumerate(value):
        where = f"{path}.{index}"
        fields = _mapping(where, item, Stage._fields, required=("epoch",))
        stage = Stage(
            _whole(f"{where}.epoch", fields["epoch"]),
            _whole(f"{where}.size", fields["size"]) if fields.get("size") is not None else None,
            _number(f"{where}.strength", fields["strength"], 0, 1) if fields.get("strength") is not None else None,
        )
        if stage.size is None and stage.strength is None:
            raise PpclsExtError(f"{where} has neither size nor strength: expected at least one")
        if stage.epoch <= (stages[-1].epoch if stages else 0) or (not stages and stage.epoch != 1):
            expected = f"more than {stages[-1].epoch}" if stages else "1, the first epoch"
            raise PpclsExtError(f"{where}.epoch is {stage.epoch}: expected {expected}")
        stages.append(stage)
    return tuple(stages)


def _read_unfuse(path: str, value: Any) -> Unfuse:
    pictures = _mapping(path, value, Unfuse._fields).get("pictures")
    return Unfuse(None if pictures is None else _whole(f"{path}.pictures", pictures))


def _mapping(path: str, value: Any, known: tuple[str, ...], required: tuple[str, ...] = ()) -> dict:
    if not isinstance(value, dict):
        raise PpclsExtError(f"{path} is {value!r}: expected a mapping of {', '.join(known)}")
    for name in value:
        if name not in known:
            near = difflib.get_close_matches(str(name), known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"expected {', '.join(known)}"
            raise PpclsExtError(f"{path}.{name} is unknown: {hint}")
    for name in required:
        if value.get(name) is None:
            raise PpclsExtError(f"{path}.{name} is missing: {path} needs {', '.join(required)}")
    return value


def _number(path: str, value: Any, low: float, high: float = float("inf")) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high or value == high > 1:
        limits = f"of at least {low}" if high > 1 else f"from {low} to {high}"
        hint = "; YAML takes 1e-4 for text: write 1.0e-4" if isinstance(value, str) and "e" in value else ""
        raise PpclsExtError(f"{path} is {value!r}: expected a number {limits}{hint}")
    return float(value)


def _whole(path: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise PpclsExtError(f"{path} is {value!r}: expected a whole number of at least 1")
    return value
