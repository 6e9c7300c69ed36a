"""Options and steps that several commands share."""

from __future__ import annotations

import argparse
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from ppcls_ext.commands.outcome import interrupt_on_signals
from ppcls_ext.commands.table import COMMANDS
from ppcls_ext.data.image_rule import SIZE, read_size
from ppcls_ext.errors import PpclsExtError, message_line, printable
from ppcls_ext.predict.results import SUFFIXES

if TYPE_CHECKING:
    from ppcls_ext.run import Run

#: Suffix of the results of a video.
LINES = ".jsonl"
RUN_HELP = "folder that a training wrote, such as output/MobileOne_S0, or weights in it; instead of -c"


class _Help(argparse.RawDescriptionHelpFormatter):
    """Help whose options take few lines: each names its value once, and several values by an ellipsis."""

    def _format_action_invocation(self, action: argparse.Action) -> str:
        if not action.option_strings or action.nargs == 0:
            return super()._format_action_invocation(action)
        value = self._format_args(action, self._get_default_metavar_for_optional(action))
        return f"{', '.join(action.option_strings)} {value}"

    def _format_args(self, action: argparse.Action, default_metavar: str) -> str:
        if action.nargs == "+":
            return f"{self._metavar_formatter(action, default_metavar)(1)[0]} …"
        return super()._format_args(action, default_metavar)


class _Parser(argparse.ArgumentParser):
    """A parser of command lines on which options may stand anywhere, also between a model and its images."""

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        return self.parse_intermixed_args(args, namespace)


def command_parser(name: str, *examples: str, description: str = "") -> argparse.ArgumentParser:
    """Returns the parser of the sub-command `name`, without its arguments.

    Args:
        name: a key of `COMMANDS`.
        examples: command lines, without "ppcls-ext".
        description: further sentences, after the command's line in the table.
    """
    line = COMMANDS[name].help
    return _Parser(
        prog=f"ppcls-ext {name}",
        description=textwrap.fill(f"{line[0].upper()}{line[1:]}. {description}", 79),  # epilogs must keep their lines
        epilog="\n  ".join([f"example{'s' * (len(examples) > 1)}:", *(f"ppcls-ext {text}" for text in examples)]),
        formatter_class=_Help,
    )


def add_int8_arguments(parser: argparse.ArgumentParser, place: str) -> None:
    """Adds the options that belong to --int8.

    Args:
        parser: which has --int8.
        place: what --calibration names, for its help.
    """
    parser.add_argument("--calibration", metavar="PLACE", help=f"with --int8: {place}")
    count = "with --int8: how many, 32 to 500; half of them check the result (default: 256)"
    parser.add_argument("--calibration-images", type=positive, default=256, metavar="N", help=count)
    allow = "with --int8: write it even where it names other classes too often"
    parser.add_argument("--allow", action="store_true", help=allow)


def require_int8(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """A usage error where options of --int8 are given without it."""
    if not args.int8 and (args.calibration or args.allow):
        parser.error("--calibration and --allow belong to --int8")


def positive(text: str) -> int:
    """A type for argparse: whole numbers from 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"got {text!r}, expected a whole number from 1")
    return int(text)


def size(text: str) -> tuple[int, int]:
    """A type for argparse: height and width, px."""
    found = read_size(text)
    if found is None:
        raise argparse.ArgumentTypeError(f"got {text!r}, expected a whole number of {SIZE}")
    return found


def _results_file(text: str) -> str:
    if Path(text).suffix.lower() not in (*SUFFIXES, LINES):
        raise argparse.ArgumentTypeError(f"got {text!r}, expected a file name that ends in {' or '.join(SUFFIXES)}")
    return text


def add_threshold_argument(parser: argparse.ArgumentParser, text: str | None = None) -> None:
    """Adds --threshold, whose values are pairs; `dict` makes of them a mapping as `Classifier` takes it.

    Args:
        parser: the command's.
        text: the option's help, where it is not that of a prediction.
    """
    least = "score from 0 to 1 from which on an image shows a class, or CLASS=SCORE for one class; may be given again "
    least += "(default: none; for multi-label the model's own, or 0.5)"
    parser.add_argument("--threshold", action="append", type=_threshold, metavar="SCORE", help=text or least)


def _threshold(text: str) -> tuple[str | None, float]:
    from ppcls_ext.predict.answers import check_threshold  # which needs NumPy

    name, equals, number = text.rpartition("=")
    try:
        return (name if equals else None), check_threshold(float(number))
    except (ValueError, PpclsExtError):
        raise argparse.ArgumentTypeError(f"got {text!r}, expected a number from 0 to 1, or CLASS=NUMBER") from None


def add_results_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds --out and --save-image."""
    out = "also write the results to a .csv file, one line per image and class, or a .json file"
    parser.add_argument("--out", metavar="FILE", type=_results_file, help=out)
    drawn = "draw the images with their classes"
    parser.add_argument("--save-image", metavar="PNG|FOLDER", help=drawn)
    parser.add_argument("--save-images", dest="save_image", help=argparse.SUPPRESS)


def add_config_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds PaddleClas's -c and -o."""
    shipped = "PaddleClas YAML file, or a shipped one by its name"
    parser.add_argument("-c", "--config", metavar="FILE", help=shipped)
    change = "change fields of it; items of lists count from 0"
    parser.add_argument("-o", "--override", action="extend", nargs="+", default=[], metavar="A.B=VALUE", help=change)


def add_labels_argument(parser: argparse.ArgumentParser) -> None:
    """Adds --labels."""
    table = "for several classes an image: its path, 0 or 1 a class"
    parser.add_argument("--labels", metavar="CSV", help=table)


def add_split_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds how images are divided into those to train and those to evaluate on."""
    share = "to evaluate on, of a FOLDER without val/ (0.2)"
    parser.add_argument("--val-share", type=float, default=0.2, metavar="SHARE", help=share)
    seed = "of this split (0)"
    parser.add_argument("--split-seed", type=int, default=0, metavar="N", help=seed)


def add_source_arguments(parser: argparse.ArgumentParser, images: bool = False) -> None:
    """Adds RUN, -c and -o; with `images`, also the names of images behind RUN, or alone behind -c."""
    if images:
        parser.add_argument("names", nargs="*", metavar="RUN IMAGE", help=f"{RUN_HELP}; images, folders or patterns")
    else:
        parser.add_argument("names", nargs="?", metavar="RUN", help=RUN_HELP)
    add_config_arguments(parser)


def open_source(parser: argparse.ArgumentParser, args: argparse.Namespace) -> tuple[Run, list[str]]:
    """Opens the run or the configuration that the arguments name; a run has weights.

    Returns:
        The run, and the names of images.

    Raises:
        PpclsExtError: there is no such run or configuration.
    """
    names = [args.names] if isinstance(args.names, str) else list(args.names or ())
    if args.config is None:
        if not names:
            parser.error("expected RUN, the folder that a training wrote, or -c FILE")
        return open_run_with_weights(names[0], args.override), names[1:]
    if isinstance(args.names, str):
        parser.error(f"got both {names[0]} and -c {args.config}: expected one of them")
    from ppcls_ext.config.settings import open_config
    from ppcls_ext.run import Run

    return Run(open_config(args.config, args.override)), names


def open_run_with_weights(name: str, overrides: list[str] | None = None) -> Run:
    """Opens a run's folder.

    Raises:
        PpclsExtError: there is no such run, or it holds no weights yet.
    """
    from ppcls_ext.config.folder import find_run, need_weights
    from ppcls_ext.config.settings import open_run
    from ppcls_ext.run import Run

    run = Run(open_run(name, overrides or ()))
    need_weights(find_run(name))
    return run


def load_host(what: Any, stream: TextIO | None = None, quiet: bool = False) -> None:
    """Loads Paddle and PaddleClas, which takes some seconds, and says so.

    Args:
        what: the configuration or run for which.
        stream: where to say it; stdout where None.
        quiet: whether to say nothing.
    """
    if not quiet:
        print(f"{printable(str(what))}: loading Paddle and PaddleClas", file=stream, flush=True)
    from ppcls_ext.training.start import set_up

    set_up()
    interrupt_on_signals()  # Paddle has taken the signal


def load_paddle() -> None:
    """Loads Paddle alone."""
    from ppcls_ext.hosts.threads import use_all_cores
    from ppcls_ext.packages import require

    require("paddle")
    use_all_cores()
    import paddle  # noqa: F401

    interrupt_on_signals()  # Paddle has taken the signal


def add_check_images_argument(parser: argparse.ArgumentParser) -> None:
    """Adds --check-images."""
    check = "only decode all images, and name unreadable ones"
    parser.add_argument("--check-images", action="store_true", help=check)


def check_images(run: Run, mode: str, **options: Any) -> None:
    """Decodes the images that `mode` would use, names on stderr what cannot be read, and prints a summary.

    Args:
        run: opened.
        mode: "train" or "eval".
        **options: see `Run.check_images`.

    Raises:
        PpclsExtError: some image cannot be read, or there is no plain image list.
    """
    from tqdm import tqdm

    bars: list[tqdm] = []

    def report(loader: str, done: int, total: int) -> None:
        if not bars:
            bars.append(tqdm(total=total, desc=loader, unit=" images", file=sys.stderr))
        bars[0].update(done - bars[0].n)

    unreadable = 0
    for checked in run.check_images(mode, report, **options):
        bars.pop().close()
        for entry, reason in checked.unreadable:
            print(message_line(f"{checked.path}:{entry.line}: {entry.path}: {reason}"), file=sys.stderr)
        readable = checked.images - len(checked.unreadable)
        print(printable(f"{checked.path}: {readable} of {checked.images} images can be read"))
        unreadable += len(checked.unreadable)
    if unreadable:
        raise PpclsExtError(f"{unreadable} images cannot be read; they are named above: replace them or take them out")
