"""The command bench: how fast models or files are, by form, runtime, threads and picture size."""

from __future__ import annotations

import argparse
import csv
import dataclasses
import datetime
import io
import itertools
import json
import platform
import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ppcls_ext import cpu
from ppcls_ext.commands.options import command_parser, positive
from ppcls_ext.errors import PpclsExtError
from ppcls_ext.files import atomic_write
from ppcls_ext.models.table import MODELS
from ppcls_ext.packages import require
from ppcls_ext.predict.classifier import Classifier
from ppcls_ext.predict.latency import measure
from ppcls_ext.predict.runtimes import with_version
from ppcls_ext.report.charts import draw_latency

FORMS = ("unfused", "fused", "int8", "fp16")
ROW = "{:<16} {:<8} {:<14} {:>7} {:>5} {:>9} {:>15} {:>7}"


def main(argv: Sequence[str] | None = None) -> None:
    """`ppcls-ext bench`."""
    args = _parse(argv)
    print(ROW.format("model", "form", "runtime", "threads", "px", "ms", "10 % … 90 %", "ratio"))
    rows: list[dict[str, Any]] = []
    for item, px in itertools.product(args.items, args.px):
        with tempfile.TemporaryDirectory(prefix="ppcls_ext_") as folder:
            files = _files(item, args.forms, px, Path(folder))
            for threads in args.threads:
                for row in _measure(item, files, args, threads):
                    rows.append(row)
                    spread = f"{row['low']:.2f} … {row['high']:.2f}"
                    print(ROW.format(*list(row.values())[:5], f"{row['median']:.2f}", spread, f"{row['ratio']:.3f}"))
    if args.output:
        _write(Path(args.output), rows, args.turns)


def _files(item: str, forms: Sequence[str], px: int, folder: Path) -> dict[str, Path]:
    """The file of each form; of a file there is one form, its own."""
    if item not in MODELS:
        return {"file": Path(item)}
    require("paddle", "paddle2onnx", "onnx", "onnxslim", "onnxruntime")
    from ppcls_ext.export.bench_files import write_forms

    return write_forms(item, forms, px, folder)


def _measure(item: str, files: dict[str, Path], args: argparse.Namespace, threads: int) -> Iterator[dict[str, Any]]:
    """Rows of one model, size and number of threads, whose forms and runtimes take turns."""
    calls: dict[str, Callable[[], object]] = {}
    sizes = {}
    for (form, path), runtime in itertools.product(files.items(), args.runtimes):
        name, _, precision = runtime.partition("-")
        classifier = Classifier(path, threads, name, precision == "bf16")
        shape = classifier.network.image_shape
        image = np.random.default_rng(0).standard_normal((classifier.batch or 1, *shape), dtype=np.float32)
        calls[f"{form} {runtime}"] = partial(classifier.network.run, image)
        sizes[f"{form} {runtime}"] = shape[-1]
    for key, latency in measure(calls, args.turns).items():
        form, runtime = key.split(" ")
        described = {"model": Path(item).name, "form": form, "runtime": runtime, "threads": threads, "px": sizes[key]}
        yield {**described, **{name: round(value, 4) for name, value in dataclasses.asdict(latency).items()}}


def _write(folder: Path, rows: list[dict[str, Any]], turns: int) -> None:
    """bench.json, bench.csv, bench.md and bench.png."""
    table = io.StringIO()
    writer = csv.DictWriter(table, rows[0], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    versions = ", ".join(map(with_version, dict.fromkeys(row["runtime"].partition("-")[0] for row in rows)))
    about: dict[str, Any] = {
        "date": datetime.date.today().isoformat(),
        "machine": machine(),
        "versions": versions,
        "turns": turns,
    }
    texts = {
        "bench.json": json.dumps({**about, "rows": rows}, indent=2),
        "bench.csv": table.getvalue(),
        "bench.md": markdown(rows, about),
    }
    for name, text in texts.items():
        with atomic_write(folder / name, "w", encoding="utf-8") as file:
            file.write(text)
        print(folder / name)
    published = {name: model.published_top1 for name, model in MODELS.items() if model.published_top1 is not None}
    if any(row["model"] in published for row in rows):
        draw_latency(rows, published, about["machine"], folder / "bench.png")
        print(folder / "bench.png")


def markdown(rows: Sequence[dict[str, Any]], about: dict[str, Any]) -> str:
    """The measurements as a page: a row for each model, size and number of threads, a column for each way to run it."""
    ways = list(dict.fromkeys((row["form"], row["runtime"]) for row in rows))
    cases: dict[tuple, dict[tuple, float]] = {}
    for row in rows:
        case = row["model"], row["px"], row["threads"]
        cases.setdefault(case, {})[row["form"], row["runtime"]] = row["median"]
    header = ["model", "px", "threads", *(f"{form}, {runtime}" for form, runtime in ways)]
    lines = [header, ["---"] * len(header)]
    for case, found in cases.items():
        lines.append([*map(str, case), *(f"{found[way]:.2f}" if way in found else "" for way in ways)])
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return (
        "# Latency\n\nWritten by `ppcls-ext bench`: ms a picture, medians of "
        f"{about['turns']} turns, {about['date']}, {about['machine']}, {about['versions']}.\n\n{table}\n"
    )


def machine() -> str:
    """Returns the names of the processor and the operating system."""
    return f"{cpu.name()}, {platform.system()}"


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = command_parser(
        "bench",
        "bench MobileOne_S0 --forms unfused fused int8 --threads 1 2 --output bench",
        "bench flowers.onnx flowers_int8.onnx --runtimes onnxruntime openvino",
        description="A model's name stands for random weights: they take the time of trained ones.",
    )
    parser.add_argument("items", nargs="+", metavar="ITEM", help="a model's name, or a file that export-onnx wrote")
    parser.add_argument("--forms", nargs="+", choices=FORMS, default=["fused"], help="of a name (default: fused)")
    runtimes = ("onnxruntime", "openvino", "openvino-bf16", "ncnn")
    which = f"{', '.join(runtimes)} (default: onnxruntime)"
    parser.add_argument(
        "--runtimes", nargs="+", choices=runtimes, default=["onnxruntime"], metavar="RUNTIME", help=which
    )
    parser.add_argument("--threads", nargs="+", type=positive, default=[1], metavar="N", help="(default: 1)")
    parser.add_argument("--px", nargs="+", type=positive, default=[224], metavar="N", help="of a name (default: 224)")
    parser.add_argument("--turns", type=positive, default=50, metavar="N", help="that count (default: 50)")
    parser.add_argument("--output", metavar="FOLDER", help="for bench.json, .csv, .md and .png (default: none)")
    args = parser.parse_args(argv)
    for item in args.items:
        if item not in MODELS and not Path(item).is_file():
            raise PpclsExtError(f"{item}: neither a model (ppcls-ext models lists them) nor a file")
    return args
