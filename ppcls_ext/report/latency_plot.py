"""bench.png: accuracy against latency, a line a model from form to form and runtime to runtime."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from ppcls_ext.report.figures import BLUE, GREY, ORANGE, RED, figure

COLOURS = {"fused": BLUE, "int8": ORANGE, "unfused": GREY, "fp16": RED}
MARKERS = {"onnxruntime": "o", "openvino": "s", "openvino-bf16": "^", "ncnn": "D"}


def draw_latency(
    rows: Sequence[Mapping[str, Any]], published: Mapping[str, float], about: str, path: str | os.PathLike
) -> None:
    """Draws the measurements with the fewest threads and, of these, each size.

    Args:
        rows: of bench.csv.
        published: top-1 on ImageNet by model, %; models without are left out. int8 stands at its fp32 model's accuracy.
        about: what the figures were measured on.
        path: the PNG.
    """
    threads = min(row["threads"] for row in rows)
    shown = [row for row in rows if row["threads"] == threads and row["model"] in published]
    with figure(path, 900, 520) as drawn:
        axes = drawn.subplots()
        for model in dict.fromkeys(row["model"] for row in shown):
            points = sorted(row["median"] for row in shown if row["model"] == model)
            top1 = published[model]
            axes.plot(points, [top1] * len(points), color=GREY, linewidth=0.8, zorder=1)
            axes.annotate(model, (points[-1], top1), xytext=(8, -3), textcoords="offset points")
        for form, runtime in dict.fromkeys((row["form"], row["runtime"]) for row in shown):
            chosen = [row for row in shown if (row["form"], row["runtime"]) == (form, runtime)]
            axes.plot(
                [row["median"] for row in chosen],
                [published[row["model"]] for row in chosen],
                MARKERS.get(runtime, "o"),
                color=COLOURS.get(form, GREY),
                label=f"{form}, {runtime}",
                zorder=2,
            )
        axes.set_xscale("log")
        axes.margins(x=0.18)
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.xaxis.set_minor_formatter(lambda value, _: f"{value:g}" if str(f"{value:.0e}")[0] in "25" else "")
        axes.set_xlabel(f"ms a picture, {threads} thread{'s' * (threads > 1)}, logarithmic ({about})")
        axes.set_ylabel("published top-1 on ImageNet, fp32 (%)")
        axes.grid(alpha=0.25)
        axes.legend(frameon=False)
