"""The command export: writes a model for phones and browsers, from a run, or from its ONNX file without Paddle."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ppcls_ext.commands.options import (
    add_config_arguments,
    add_int8_arguments,
    command_parser,
    load_paddle,
    open_source,
    require_int8,
)
from ppcls_ext.errors import printable, printable_lines
from ppcls_ext.export.formats import FORMATS, export_file, require_litertjs, require_packages, require_precision_of


def main(argv: Sequence[str] | None = None) -> None:
    """`ppcls-ext export`."""
    parser = _parser()
    args = parser.parse_args(argv)
    options_of = {"float32": args.fp32, "float16": args.fp16, "int8": args.int8}
    precision = next((name for name, is_given in options_of.items() if is_given), None)
    require_int8(parser, args)
    require_packages(args.to, args.tensor_input)
    require_litertjs(args.to, args.litertjs)
    require_precision_of(args.to, precision)
    options: dict[str, Any] = {
        "precision": precision,
        "samples": args.samples or (),
        "tensor_input": args.tensor_input,
        "calibration": args.calibration,
        "calibration_images": args.calibration_images,
        "allow": args.allow,
        "litertjs": args.litertjs,
    }
    if args.names is not None and Path(args.names).suffix == ".onnx":
        if args.config or args.override:
            parser.error(f"-c and -o belong to a configuration or a run, and {args.names} is a file")
        report: Any = export_file(args.names, args.to, args.output, **options)
    else:
        run, _ = open_source(parser, args)
        load_paddle()
        report = run.export(args.to, args.output, **options)
    print(printable_lines(report))
    if args.to == "web":
        print(f"next:\n  open {printable(str(report.path))} in a browser; it needs no server and no network")
    else:
        print(f"next:\n  ppcls-ext predict {printable(str(report.path))} IMAGE…")


def _parser() -> argparse.ArgumentParser:
    parser = command_parser(
        "export",
        "export output/MobileOne_S0 --to tflite --int8 --samples photos",
        "export MobileOne_S0.onnx --to coreml",
        description="Each file is run, or computed, and compared with onnxruntime before it is written.",
    )
    what = "folder that a training wrote, or weights in it; or an ONNX file that export-onnx wrote, without Paddle"
    parser.add_argument("names", nargs="?", metavar="RUN|FILE.onnx", help=what)
    add_config_arguments(parser)
    to = "tflite (LiteRT, Android), coreml (Apple), ncnn, web (one HTML file) or onnx"
    parser.add_argument("--to", required=True, choices=FORMATS, metavar="FORMAT", help=to)
    output = "file to write, with the format's ending (default: MODEL.tflite, MODEL_int8.tflite, MODEL.mlpackage, "
    output += "MODEL.ncnn.param, MODEL.html, …, in the run's folder or beside FILE)"
    parser.add_argument("--output", metavar="FILE", help=output)
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument("--fp32", action="store_true", help="compute in fp32 (default, but for coreml)")
    kind.add_argument(
        "--fp16", action="store_true", help="weights in half the space; coreml computes in it, too (default)"
    )
    kind.add_argument("--int8", action="store_true", help="quantize; coreml quantizes the weights alone, ncnn nothing")
    samples = "images, folders or patterns to compare on, beside random input"
    parser.add_argument("--samples", nargs="+", metavar="IMAGE", help=samples)
    tensor = "tflite: take normalised floats instead of pixels"
    parser.add_argument("--tensor-input", action="store_true", help=tensor)
    runtime = "web: folder of the npm package @litertjs/core (default: node_modules/@litertjs/core)"
    parser.add_argument("--litertjs", metavar="FOLDER", help=runtime)
    add_int8_arguments(parser, "images like those it will see, see export-onnx; of an fp32 FILE a folder or pattern")
    return parser
