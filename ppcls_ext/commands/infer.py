"""The command infer."""

from __future__ import annotations

from collections.abc import Sequence

from ppcls_ext.commands.options import (
    add_results_arguments,
    add_source_arguments,
    add_threshold_argument,
    command_parser,
    load_host,
    open_source,
)


def main(argv: Sequence[str] | None = None) -> None:
    """`ppcls-ext infer`."""
    parser = command_parser(
        "infer",
        "infer output/MobileOne_S0 flower.jpg photos/",
        "infer -c MobileOne_S0 flower.jpg -o Global.pretrained_model=output/MobileOne_S0/best_model",
    )
    add_source_arguments(parser, images=True)
    add_threshold_argument(parser)
    add_results_arguments(parser)
    parser.add_argument("-v", "--verbose", action="store_true", help="show PaddleClas's own output")
    args = parser.parse_args(argv)
    run, images = open_source(parser, args)
    load_host(args.config or run.folder)
    threshold = args.threshold and dict(args.threshold)
    run.infer(images, out=args.out, save_image=args.save_image, threshold=threshold, verbose=args.verbose)
