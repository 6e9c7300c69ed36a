"""The thresholds of a multi-label run: the score of each class from which on an image shows it."""

from __future__ import annotations

from ppcls_ext.config.settings import RunSettings
from ppcls_ext.errors import PpclsExtError


def own_thresholds(settings: RunSettings, classes: int) -> tuple[float, ...] | None:
    """Returns the threshold of each class that a run, or else `Infer.PostProcess.threshold`, states; None without any.

    Raises:
        PpclsExtError: there are not as many as classes, or one is no number from 0 to 1.
    """
    field, found = "the thresholds of the run", getattr(settings, "thresholds", None)
    if found is None:
        post_process = settings.section("Infer").get("PostProcess") or {}
        field, found = "Infer.PostProcess.threshold", post_process.get("threshold")
    if found is None:
        return None
    values = list(found) if isinstance(found, (list, tuple)) else [found] * classes
    if len(values) != classes or not all(type(value) in (int, float) and 0 <= value <= 1 for value in values):
        raise PpclsExtError(f"{field}: got {found!r}, expected a number from 0 to 1, or {classes}, one for each class")
    return tuple(map(float, values))
