"""The command train."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from ppcls_ext.commands.options import (
    add_check_images_argument,
    add_config_arguments,
    add_labels_argument,
    add_split_arguments,
    check_images,
    command_parser,
    load_host,
    positive,
)
from ppcls_ext.run import open_training


def main(argv: Sequence[str] | None = None) -> None:
    """`ppcls-ext train`."""
    parser = _parser()
    args = parser.parse_args(argv)
    if args.config is None and not args.resume:
        parser.error("expected -c FILE, or --resume RUN")
    if args.labels and not args.data:
        parser.error("expected --data FOLDER with --labels, in which the images are")
    run = open_training(args.config, args.override, size=args.size, patience=args.patience, resume=args.resume)
    load_host(args.config or args.resume)
    options = {"val_share": args.val_share, "split_seed": args.split_seed}
    if args.check_images:
        check_images(run, "train", data=args.data, labels=args.labels, verbose=args.verbose, **options)
        return
    run.train(
        args.data,
        labels=args.labels,
        **options,
        report=args.report,
        overwrite=args.overwrite,
        profiler_options=args.profiler_options,
        verbose=args.verbose,
    )


def _parser() -> argparse.ArgumentParser:
    parser = command_parser(
        "train",
        "train -c MobileOne_S0 --data flowers/ --size 128",
        "train -c MobileOne_S0 --data photos/ --labels photos/labels.csv",
        "train -c MobileOne_S0 -o Global.epochs=20",
        "train --resume output/MobileOne_S0",
        description="It writes its settings, its log and its weights to output/ARCH.",
    )
    add_config_arguments(parser)
    parser.add_argument("--data", metavar="FOLDER", help="your own images, one folder a class, instead of the lists")
    add_labels_argument(parser)
    add_split_arguments(parser)
    parser.add_argument("--size", type=positive, metavar="PX", help="side of the images, set in every place")
    resume = "go on with the run of this command, or with the one in the folder RUN"
    parser.add_argument("--resume", nargs="?", const=True, metavar="RUN", help=resume)
    patience = "end the training after N epochs without a better evaluation"
    parser.add_argument("--patience", type=positive, metavar="N", help=patience)
    parser.add_argument("--report", action="store_true", help="at the end, a report of the best evaluation (HTML)")
    overwrite = "train anew where an earlier training's checkpoints are"
    parser.add_argument("--overwrite", action="store_true", help=overwrite)
    add_check_images_argument(parser)
    profiler = 'PaddleClas\'s profiler, e.g. "batch_range=[10, 20]"'
    parser.add_argument("-p", "--profiler_options", metavar="KEY=VALUE;…", help=profiler)
    parser.add_argument("-v", "--verbose", action="store_true", help="show PaddleClas's own output")
    return parser
