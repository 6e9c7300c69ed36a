"""Options that several commands have."""

from __future__ import annotations

import argparse


def positive(text: str) -> int:
    """A type for argparse: whole numbers from 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"got {text!r}, expected a whole number from 1")
    return int(text)


def add_config_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds PaddleClas's -c and -o, which `load_config` takes, to a tool's command line."""
    parser.add_argument("-c", "--config", required=True, metavar="FILE", help="PaddleClas YAML file")
    parser.add_argument(
        "-o",
        "--override",
        action="extend",
        nargs="+",
        default=[],
        metavar="A.B=VALUE",
        help="change a field of the YAML file; list items count from 0; may be given several times",
    )
