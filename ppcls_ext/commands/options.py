"""What the command lines of several commands share."""

from __future__ import annotations

import argparse
import textwrap
from pathlib import Path

from ppcls_ext.commands.table import COMMANDS
from ppcls_ext.predict.results import SUFFIXES


def command_parser(name: str, *examples: str, description: str = "") -> argparse.ArgumentParser:
    """The parser of the sub-command `name`, without its arguments.

    Args:
        name: a key of `COMMANDS`.
        examples: command lines, without "ppcls-ext".
        description: what goes beyond the command's one line, as sentences.
    """
    line = COMMANDS[name].help
    return argparse.ArgumentParser(
        prog=f"ppcls-ext {name}",
        description=textwrap.fill(f"{line[0].upper()}{line[1:]}. {description}", 79),  # epilogs must keep their lines
        epilog="\n  ".join([f"example{'s' * (len(examples) > 1)}:", *(f"ppcls-ext {text}" for text in examples)]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def positive(text: str) -> int:
    """A type for argparse: whole numbers from 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"got {text!r}, expected a whole number from 1")
    return int(text)


RESULTS_HELP = "also write the results to a .csv file, one line a picture and class, or a .json file"
SAVE_IMAGE_HELP = "draw the pictures with their classes, and sheets of many"


def results_file(text: str) -> str:
    """A type for argparse: the name of a file of results."""
    if Path(text).suffix.lower() not in SUFFIXES:
        raise argparse.ArgumentTypeError(f"got {text!r}, expected a file name that ends in {' or '.join(SUFFIXES)}")
    return text


def add_config_arguments(parser: argparse.ArgumentParser, required: bool = True) -> None:
    """Adds PaddleClas's -c and -o, which `load_config` takes, to a tool's command line."""
    parser.add_argument(
        "-c",
        "--config",
        required=required,
        metavar="FILE",
        help="PaddleClas YAML file, or the name of a shipped one: MobileOne_S0, ImageNet/RepVGG_A0, …",
    )
    parser.add_argument(
        "-o",
        "--override",
        action="extend",
        nargs="+",
        default=[],
        metavar="A.B=VALUE",
        help="change a field of the configuration; list items count from 0; may be given several times",
    )
