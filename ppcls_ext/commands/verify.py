"""The command verify: one exported file in every runtime that is installed."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from ppcls_ext.commands.options import command_parser
from ppcls_ext.data.lists import MULTI_LABEL
from ppcls_ext.errors import PpclsExtError, message_line, printable
from ppcls_ext.export.agreement import compare_runtimes
from ppcls_ext.predict.runtimes import with_version

COLUMNS = "{:<28} {:>10} {:>12}"
#: What follows where images may show several labels; see `ppcls_ext.export.comparison.Agreement`.
FOUND = " {:>15}"


def main(argv: Sequence[str] | None = None) -> int:
    """`ppcls-ext verify`."""
    args = _parse(argv)
    images, task, comparisons = compare_runtimes(args.file, args.images, args.program)
    print(f"{printable(args.file)}: {images} images, compared with {with_version('onnxruntime')}")
    several = task == MULTI_LABEL
    print(
        COLUMNS.format("runtime", "difference", "same label" if several else "same class")
        + (FOUND.format("found by both") if several else "")
    )
    failed = False
    for comparison in comparisons:
        failed |= not comparison.agrees
        found = comparison.agreement
        if found is None:
            print(f"{comparison.name:<28} {message_line(comparison.error)}")
            continue
        name = with_version(comparison.runtime, comparison.name)
        line = COLUMNS.format(name, f"{found.change:.1e}", f"{found.same:.1%}")
        print(line + (FOUND.format(f"{found.found:.1%}") if several else ""))
    if failed:
        raise PpclsExtError(f"{args.file}: a runtime gives other answers than onnxruntime; the table says which")
    return 0


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = command_parser(
        "verify", "verify MobileOne_S0.onnx photos", "verify MobileOne_S0.onnx photos --program inference"
    )
    parser.add_argument("file", metavar="FILE", help="that export-onnx wrote")
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="image, folder, or quoted pattern")
    parser.add_argument("--program", metavar="FOLDER", help="that export-model wrote of the same weights, for Paddle")
    args = parser.parse_args(argv)
    if args.program is not None and not Path(args.program).is_dir():
        parser.error(f"--program {args.program}: expected a folder that export-model wrote")
    return args
