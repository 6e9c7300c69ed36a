"""The thresholds of a multi-label run: the score of each class from which on an image shows it."""

from __future__ import annotations

from ppcls_ext.config.settings import RunSettings
from ppcls_ext.data.lists import MULTI_LABEL
from ppcls_ext.errors import PpclsExtError


def own_thresholds(settings: RunSettings, classes: int) -> tuple[float, ...] | None:
    """Returns the threshold of each class; None where none are known, and for single-label.

    Those that are given count before those that a training chose: `Global.thresholds`, else the field of PaddleClas's
    MultiLabelThreshOutput, `Infer.PostProcess.threshold`, else what is kept beside the weights.

    Raises:
        PpclsExtError: there are not as many as classes, or one is no number from 0 to 1.
    """
    if settings.task != MULTI_LABEL:
        return None
    given = (settings.section("Infer").get("PostProcess") or {}).get("threshold")
    if settings.given_thresholds is not None or given is None:
        return settings.thresholds
    values = list(given) if isinstance(given, (list, tuple)) else [given] * classes
    if len(values) != classes or not all(type(value) in (int, float) and 0 <= value <= 1 for value in values):
        raise PpclsExtError(
            f"Infer.PostProcess.threshold is {given!r}: expected a number from 0 to 1, or {classes}, one for each class"
        )
    return tuple(map(float, values))
