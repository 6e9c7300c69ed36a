"""The command bench: measures how fast models or files are, by form, runtime, threads and image size."""

from __future__ import annotations

import argparse
import itertools
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from ppcls_ext.commands.options import command_parser, positive, size
from ppcls_ext.errors import PpclsExtError, one_of, printable
from ppcls_ext.files import folder_at_once
from ppcls_ext.models.table import MODELS
from ppcls_ext.packages import require
from ppcls_ext.predict.latency import WARM_UP, measure_files
from ppcls_ext.report.latency import write_latencies

#: What --output gets.
FILES = r"bench\.(json|csv|md|png)"
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
            convert = partial(_converted, Path(folder))
            for threads in args.threads:
                for row in measure_files(Path(item).name, files, args.runtimes, threads, args.turns, convert):
                    rows.append(row)
                    spread = f"{row['low']:.2f} … {row['high']:.2f}"
                    cells = *list(row.values())[:5], f"{row['median']:.2f}", spread, f"{row['ratio']:.3f}"
                    print(printable(ROW.format(*cells)))
    if args.output:
        published = {
            name: (model.published_top1, model.published_px)
            for name, model in MODELS.items()
            if model.published_top1 is not None
        }
        with folder_at_once(Path(args.output), FILES) as place:
            names = [path.name for path in write_latencies(place, rows, args.turns, published)]
        for name in names:
            print(printable(str(Path(args.output) / name)))
        sizes = sorted({published[row["model"]][1] for row in rows if row["model"] in published})
        if sizes and "bench.png" not in names:
            print(f"no bench.png: the accuracies are published for {' and '.join(map(str, sizes))} px")


def _converted(folder: Path, path: Path, runtime: str) -> Path:
    """Returns what a runtime runs of a file: ncnn and LiteRT run no ONNX."""
    if path.suffix != ".onnx" or runtime not in ("ncnn", "tflite"):
        return path
    from ppcls_ext.export.formats import written_for

    place = folder / f"{path.stem}_{runtime}"
    place.mkdir(exist_ok=True)
    return written_for(runtime, path, place)


def _files(item: str, forms: Sequence[str], px: tuple[int, int], folder: Path) -> dict[str, Path]:
    """The file of each form; of a file there is one form, its own."""
    if item not in MODELS:
        return {"file": Path(item)}
    require("paddle", "paddle2onnx", "onnx", "onnxslim", "onnxruntime")
    from ppcls_ext.export.bench_files import write_forms

    return write_forms(item, forms, px, folder)


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = command_parser(
        "bench",
        "bench MobileOne_S0 --forms unfused fused int8 --threads 1 2 --output bench",
        "bench flowers.onnx flowers_int8.onnx --runtimes onnxruntime openvino",
        description="The time of one call of the runtime on the CPU, for one image (or a file's fixed batch) of random "
        "numbers: images are neither read nor decoded nor resized. All files and runtimes take turns; after "
        f"{WARM_UP} turns that do not count, ms is the median, and beside it are the first and the ninth decile; "
        "ratio is the median ratio to the first row of the same turn. A model's name stands for random weights, which "
        "take the time of trained ones.",
    )
    parser.add_argument("items", nargs="+", metavar="ITEM", help="a model's name, or an exported file")
    parser.add_argument("--forms", nargs="+", choices=FORMS, default=["fused"], help="of a name (default: fused)")
    runtimes = ("onnxruntime", "openvino", "openvino-bf16", "ncnn", "tflite")
    which = f"{', '.join(runtimes)} (default: onnxruntime)"
    parser.add_argument(
        "--runtimes", nargs="+", choices=runtimes, default=["onnxruntime"], metavar="RUNTIME", help=which
    )
    parser.add_argument(
        "--threads", nargs="+", type=positive, default=[1], metavar="N", help="of one call (default: 1)"
    )
    of_a_name = "image size, of a name: a side, or HEIGHTxWIDTH (default: 224)"
    parser.add_argument("--px", nargs="+", type=size, default=[(224, 224)], metavar="PX", help=of_a_name)
    parser.add_argument("--turns", type=positive, default=50, metavar="N", help="turns that count (default: 50)")
    parser.add_argument("--output", metavar="FOLDER", help="for bench.json, .csv, .md and .png (default: none)")
    args = parser.parse_args(argv)
    for item in args.items:
        if item not in MODELS and not Path(item).exists():
            raise PpclsExtError(f"{item}: no such file, and no model: expected one of {one_of(item, MODELS)}")
    return args
