"""`Global.budget`: the time that a training may take, and what it cannot be combined with."""

from __future__ import annotations

import re
from typing import Any

from ppcls_ext.config.settings import RunSettings
from ppcls_ext.errors import PpclsExtError

EXPECTED = "a time such as 30m, 1h30m or 90s"
#: Schedules of the learning rate that name epochs themselves.
NAMING_EPOCHS = ("MultiStepDecay", "Piecewise", "Step")


def read_time(value: Any) -> int | None:
    """Reads a time in hours, minutes and seconds such as 1h30m; returns seconds, None where it is no such time."""
    pattern = r"(?:(\d{1,4})h)?(?:(\d{1,6})m)?(?:(\d{1,8})s)?"
    found = re.fullmatch(pattern, value, re.ASCII) if isinstance(value, str) else None
    if found is None:
        return None
    hours, minutes, seconds = (int(part or 0) for part in found.groups())
    return 3600 * hours + 60 * minutes + seconds or None


def read_budget(settings: RunSettings) -> int | None:
    """Reads the time that a training may take, in seconds; None where there is no limit.

    Raises:
        PpclsExtError: it is no time, or the training's epochs cannot be chosen freely.
    """
    options = settings.section("Global")
    budget = options.get("budget")
    if budget is None:
        return None
    where = f"Global.budget (--budget) is {budget!r}"
    seconds = read_time(budget)
    if seconds is None:
        raise PpclsExtError(f"{where}: expected {EXPECTED}")
    optimizers = settings.config.get("Optimizer")
    schedules = [item.get("lr") for item in _mappings(optimizers)]
    names = [schedule.get("name") for schedule in schedules if isinstance(schedule, dict)]
    reasons = {
        "the training is resumed, whose epochs are known": options.get("checkpoints") is not None,
        "Recipe.progressive names epochs itself": bool(settings.recipe.progressive),
        f"the schedule {'/'.join(NAMING_EPOCHS)} names epochs itself": any(name in NAMING_EPOCHS for name in names),
        "Global.train_mode has a loop of its own": options.get("train_mode") is not None,
        "Global.eval_mode is not classification": options.get("eval_mode", "classification") != "classification",
        "Global.use_dali reads the images": bool(options.get("use_dali")),
    }
    for reason, holds in reasons.items():
        if holds:
            raise PpclsExtError(f"{where}, and {reason}: leave it out, and give the epochs (--epochs)")
    return seconds


def _mappings(node: Any) -> list[dict[str, Any]]:
    """The optimizers of PaddleClas's section: one, or a list of one an entry, each below its name."""
    if isinstance(node, dict):
        return [node]
    entries = [item for item in node if isinstance(item, dict)] if isinstance(node, list) else []
    return [fields for item in entries for fields in item.values() if isinstance(fields, dict)]
