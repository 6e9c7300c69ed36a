"""The command export-model."""

from __future__ import annotations

import os
from collections.abc import Sequence

from ppcls_ext.commands.options import add_source_arguments, command_parser, load_host, open_source

#: Paddle's switch between the two formats of a program, read when Paddle is loaded.
PIR = "FLAGS_enable_pir_api"


def main(argv: Sequence[str] | None = None) -> None:
    """`ppcls-ext export-model`."""
    parser = command_parser(
        "export-model",
        "export-model output/MobileOne_S0",
        "export-model -c MobileOne_S0 -o Global.pretrained_model=output/MobileOne_S0/best_model "
        "Global.save_inference_dir=inference",
    )
    add_source_arguments(parser)
    parser.add_argument(
        "--format",
        choices=("json", "pdmodel"),
        help="of the program: Paddle 3's inference.json, or the older inference.pdmodel, which PaddleClas's "
        "predict_cls.py and the paddleclas package read (default: Paddle's own, json)",
    )
    parser.add_argument("-v", "--verbose", action="store_true", help="show PaddleClas's own output")
    args = parser.parse_args(argv)
    run, _ = open_source(parser, args)
    if args.format:
        os.environ[PIR] = "1" if args.format == "json" else "0"
    load_host(args.config or run.folder)
    run.export_model(verbose=args.verbose)
