"""The command train."""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

from ppcls_ext.commands.options import (
    add_check_images_argument,
    add_config_arguments,
    add_labels_argument,
    add_split_arguments,
    check_images,
    command_parser,
    load_host,
)
from ppcls_ext.config.load import load_config, parsed
from ppcls_ext.config.train_options import DEFAULT, TRAIN_OPTIONS, TrainOption
from ppcls_ext.hosts.quiet import logging_from
from ppcls_ext.models.table import MODELS
from ppcls_ext.run import open_training


def main(argv: Sequence[str] | None = None) -> None:
    """`ppcls-ext train`."""
    wants_help = not {"-h", "--help"}.isdisjoint(sys.argv[1:] if argv is None else argv)
    parser = _parser(load_config(DEFAULT) if wants_help else {})
    args = parser.parse_args(argv)
    source = require_source(parser, args)
    if source is None and args.data is None and not isinstance(args.resume, str):
        parser.error(f"expected NAME or -c FILE, --data FOLDER, or --resume RUN; NAME is one of {', '.join(MODELS)}")
    with logging_from(logging.WARNING, logging.getLogger("ppcls_ext")) if args.quiet else contextlib.nullcontext():
        _train(args, source)


def _train(args: argparse.Namespace, source: str | None) -> None:
    short = {option.name: getattr(args, option.name) for option in TRAIN_OPTIONS}
    run = open_training(source, args.override, data=args.data, resume=args.resume, **short)
    load_host(source or (args.resume if isinstance(args.resume, str) else run.settings.arch.name), quiet=args.quiet)
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
        quiet=args.quiet,
        show_lr=args.show_lr,
    )


def add_training_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds what is trained: NAME or -c FILE, -o, --data and --labels."""
    source = f"a model, by default {DEFAULT}; see ppcls-ext models"
    parser.add_argument("source", nargs="?", metavar="NAME", help=source)
    add_config_arguments(parser)
    parser.add_argument("--data", metavar="FOLDER", help="your images, one folder a class")
    add_labels_argument(parser)


def require_source(parser: argparse.ArgumentParser, args: argparse.Namespace) -> str | None:
    """The configuration that the arguments name; a usage error where they contradict each other."""
    if args.source is not None and args.config is not None:
        parser.error(f"got both {args.source} and -c {args.config}: expected one of them")
    source = args.config or args.source
    if source is not None and os.path.isdir(source):
        parser.error(f"{source} is a folder: expected a configuration; write --data {source} for your own images")
    if args.labels and not args.data:
        parser.error("expected --data FOLDER with --labels, in which the images are")
    return source


def _parser(defaults: dict) -> argparse.ArgumentParser:
    parser = command_parser(
        "train",
        "train --data flowers/ --epochs 20",
        "train RepVGG_A0 --data flowers/ --size 128 --weights published",
        "train -c my.yml -o Global.epochs=20",
        "train --resume output/MobileOne_S0",
        description="It writes settings, log and weights to OUT/NAME, a further training to OUT/NAME-2.",
    )
    parser.usage = "ppcls-ext train [NAME | -c FILE] [--data FOLDER] [OPTION …]"
    add_training_arguments(parser)
    add_split_arguments(parser)
    again = parser.add_mutually_exclusive_group()
    resume = "go on with the run begun last, or with that in RUN"
    again.add_argument("--resume", nargs="?", const=True, metavar="RUN", help=resume)
    again.add_argument("--overwrite", action="store_true", help="train anew in the place of an earlier training")
    parser.add_argument("--report", action="store_true", help="write a report of the best evaluation (HTML)")
    add_check_images_argument(parser)
    shown = parser.add_mutually_exclusive_group()
    shown.add_argument("--quiet", action="store_true", help="show warnings, errors and the result only")
    shown.add_argument("-v", "--verbose", action="store_true", help="show PaddleClas's own output")
    parser.add_argument("--show-lr", action="store_true", help="show the learning rate, too")
    profiler = "PaddleClas's profiler"
    parser.add_argument("-p", "--profiler_options", metavar="K=V;…", help=profiler)
    short = parser.add_argument_group(f"fields of the configuration (-o sets all others; here with {DEFAULT}'s values)")
    for option in TRAIN_OPTIONS:
        value = option.value_in(defaults)
        help_text = f"{option.help} ({option.fields[0]}{'' if value is None else f': {value}'})"
        if option.metavar:
            short.add_argument(option.flag, type=_type_of(option), metavar=option.metavar, help=help_text)
        else:
            short.add_argument(option.flag, action="store_const", const=True, help=help_text)
    return parser


def _type_of(option: TrainOption) -> Callable[[str], Any]:
    """A type for argparse."""

    def convert(text: str) -> Any:
        value = parsed(f"{option.name}={text}")[1] if option.is_number else text
        if not option.accepts(value):
            raise argparse.ArgumentTypeError(f"got {text!r}, expected {option.expected}")
        return value

    return convert
