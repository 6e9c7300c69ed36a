"""The command export-onnx."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from ppcls_ext.commands.options import (
    add_int8_arguments,
    add_source_arguments,
    command_parser,
    load_paddle,
    open_source,
    positive,
    require_int8,
)
from ppcls_ext.errors import printable, printable_lines


def main(argv: Sequence[str] | None = None) -> None:
    """`ppcls-ext export-onnx`."""
    parser = _parser()
    args = parser.parse_args(argv)
    require_int8(parser, args)
    run, _ = open_source(parser, args)
    load_paddle()
    precision = "int8" if args.int8 else "float16" if args.fp16 else "float32"
    output = args.output or run.onnx_file(precision)
    report = run.export_onnx(
        output,
        opset=args.opset,
        batch=args.batch,
        softmax=not args.no_softmax,
        samples=args.samples or (),
        precision=precision,
        calibration=args.calibration,
        calibration_images=args.calibration_images,
        allow=args.allow,
        dynamic_size=args.dynamic_size,
    )
    print(printable_lines(report))
    print(f"next:\n  ppcls-ext predict {printable(str(output))} IMAGE…")


def _parser() -> argparse.ArgumentParser:
    parser = command_parser(
        "export-onnx",
        "export-onnx output/MobileOne_S0",
        "export-onnx -c MobileOne_S0 -o Global.pretrained_model=output/MobileOne_S0/best_model "
        "--output MobileOne_S0.onnx",
    )
    add_source_arguments(parser)
    output = (
        "file to write (default: ARCH.onnx, ARCH_int8.onnx or ARCH_fp16.onnx, in the run's folder where RUN is given)"
    )
    parser.add_argument("--output", metavar="FILE", help=output)
    parser.add_argument("--opset", type=int, metavar="N", help="ONNX opset, 11 to 20 (default: 17; 20 for int8)")
    parser.add_argument("--batch", type=positive, metavar="N", help="fix the batch size (default: any)")
    free = "leave height and width free as well: predict keeps the whole of each image"
    parser.add_argument("--dynamic-size", action="store_true", help=free)
    logits = "end in logits instead of probabilities, or of a multi-label run's scores"
    parser.add_argument("--no-softmax", action="store_true", help=logits)
    samples = "images, folders or patterns to compare on, beside random input"
    parser.add_argument("--samples", nargs="+", metavar="IMAGE", help=samples)
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument("--int8", action="store_true", help="quantize, and check that the classes stay the same")
    kind.add_argument("--fp16", action="store_true", help="store the weights in half the space")
    place = "images like those it will see: a list, a folder, or the folder of a training "
    place += "(default: the training images of the configuration)"
    add_int8_arguments(parser, place)
    parser.add_argument(  # its name until version 0.2
        "--calibration-pictures",
        dest="calibration_images",
        type=positive,
        default=argparse.SUPPRESS,
        help=argparse.SUPPRESS,
    )
    return parser
