"""The command eval."""

from __future__ import annotations

from collections.abc import Sequence

from ppcls_ext.commands.options import (
    add_check_images_argument,
    add_source_arguments,
    check_images,
    command_parser,
    load_host,
    open_source,
)
from ppcls_ext.errors import printable, printable_lines


def main(argv: Sequence[str] | None = None) -> None:
    """`ppcls-ext eval`."""
    parser = command_parser(
        "eval",
        "eval output/MobileOne_S0",
        "eval output/MobileOne_S0 --data flowers/test",
        "eval -c MobileOne_S0 -o Global.pretrained_model=output/MobileOne_S0/best_model",
    )
    add_source_arguments(parser)
    data = "other images: a folder with one folder per class, named as the run's classes, or an image list"
    parser.add_argument("--data", metavar="FOLDER|LIST", help=data)
    add_check_images_argument(parser)
    report = "write confusions, mistakes, calibration and one HTML page (default: report-eval in the run's folder)"
    parser.add_argument("--report", nargs="?", const=True, metavar="FOLDER", help=report)
    parser.add_argument("-v", "--verbose", action="store_true", help="show PaddleClas's own output")
    args = parser.parse_args(argv)
    run, _ = open_source(parser, args)
    load_host(args.config or run.folder)
    if args.check_images:
        check_images(run if args.data is None else run.on(args.data), "eval", verbose=args.verbose)
        return
    evaluated = run.evaluate(args.data, report=args.report or False, verbose=args.verbose)
    if not args.verbose:
        print(printable_lines(evaluated))
    if evaluated.page is not None:
        print(f"report: {printable(str(evaluated.page))}")
