"""The options of the export that make int8 or fp16 of the proved fp32 file."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from ppcls_ext.commands.calibration import calibration_pictures
from ppcls_ext.commands.options import positive
from ppcls_ext.data.image_rule import Preprocessing


def add_reduced_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds --int8, --fp16 and what belongs to them."""
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument("--int8", action="store_true", help="quantize, and check that the classes stay the same")
    kind.add_argument("--fp16", action="store_true", help="store the weights in half the space")
    parser.add_argument(
        "--calibration",
        metavar="PLACE",
        help="with --int8: pictures like those it will see: a list, a folder, or the folder of a training "
        "(default: the training pictures of the configuration)",
    )
    parser.add_argument(
        "--calibration-pictures",
        type=positive,
        default=256,
        metavar="N",
        help="with --int8: how many, 32 to 500; half of them check the result (default: 256)",
    )
    parser.add_argument(
        "--allow", action="store_true", help="with --int8: write it even where it names other classes too often"
    )


def reduction(args: argparse.Namespace, config: Mapping[str, Any], rule: Preprocessing) -> Callable | None:
    """What `export_onnx` is to do with the proved graph; None for fp32. Reads the calibration pictures."""
    if args.fp16:
        from ppcls_ext.export.float16 import reduce_to_float16

        return reduce_to_float16
    if not args.int8:
        return None
    from ppcls_ext.export.int8 import quantize

    pictures = calibration_pictures(args.calibration, config, args.calibration_pictures, rule)
    return partial(quantize, pictures=pictures, allow=args.allow)
