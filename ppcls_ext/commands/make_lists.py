"""The command that writes PaddleClas's image lists for a folder of class folders."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ppcls_ext.commands.options import command_parser
from ppcls_ext.data.class_folders import LABEL_LIST, TRAIN_LIST, VAL_LIST, make_lists
from ppcls_ext.packages import import_extra


def main(argv: list[str] | None = None) -> None:
    """`ppcls-ext make-lists`."""
    parser = command_parser(
        "make-lists",
        "make-lists flowers/ --output lists",
        description="Or of a folder with these in train/ and val/. `ppcls-ext train --data FOLDER` does it by itself.",
    )
    parser.add_argument("folder", metavar="FOLDER", help="the pictures, one folder a class")
    parser.add_argument("--output", metavar="FOLDER", default="lists", help="for the lists (default: lists)")
    add_split_arguments(parser)
    args = parser.parse_args(argv)
    with progress("reading pictures") as report:
        made = make_lists(args.folder, args.output, args.val_share, args.split_seed, report)
    for line in made.lines():
        print(line)
    for name in (TRAIN_LIST, VAL_LIST, LABEL_LIST):
        print(made.folder / name)
    print(f"in the YAML: class_num: {len(made.classes)}, image_root: {made.root}")


def add_split_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds how pictures are divided into those to train and those to evaluate on."""
    parser.add_argument(
        "--val-share",
        type=float,
        default=0.2,
        metavar="SHARE",
        help="share of each class to evaluate on, where FOLDER has no val/ (default: 0.2)",
    )
    parser.add_argument(
        "--split-seed", type=int, default=0, metavar="N", help="another seed, another split (default: 0)"
    )


@contextmanager
def progress(what: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on a terminal, else nothing; gives the function that moves it to (done, all)."""
    tqdm = import_extra("tqdm").tqdm
    with tqdm(desc=what, unit=" pictures", file=sys.stderr, disable=not sys.stderr.isatty(), leave=False) as bar:

        def report(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield report
