"""What an evaluation came to, read from the engine's metrics."""

from __future__ import annotations

from typing import Any

from ppcls_ext.training.epochs import AveragedLoss, Evaluation


def read_evaluation(engine: Any, first: Any) -> list[Evaluation]:
    """One `Evaluation` for each count of pictures, usually one in all.

    Args:
        engine: PaddleClas's, after its `eval`.
        first: what that returned, its first metric.
    """
    found = []
    for metric in getattr(engine.eval_metric_func, "metric_func_list", ()):
        meters = getattr(metric, "avg_meters", {})
        # the count is the number of images that went in, whatever the sampler left out or repeated
        for count in sorted({meter.count for meter in meters.values()}):
            values = {name: float(meter.avg) for name, meter in meters.items() if meter.count == count}
            name, value = next(iter(values.items()))
            found.append(Evaluation(name, value, values, count))
    loss = engine.eval_loss_func.average if isinstance(engine.eval_loss_func, AveragedLoss) else None
    if not found:
        found.append(Evaluation("metric", float("nan") if first is None else float(first), {}, 0))
    if loss is not None:
        found[0].metrics["loss"] = loss
    return found
