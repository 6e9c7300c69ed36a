"""The command doctor: checks the installation, and tries a configuration."""

from __future__ import annotations

import shutil
import sys
import textwrap
from collections.abc import Iterable, Iterator, Sequence

import ppcls_ext
from ppcls_ext.commands.options import command_parser
from ppcls_ext.commands.train import add_training_arguments, require_source
from ppcls_ext.config.train_options import DEFAULT
from ppcls_ext.doctor import NEEDED_FOR_TRAINING, Finding, check_installation, try_configuration
from ppcls_ext.errors import printable
from ppcls_ext.run import open_training


def main(argv: Sequence[str] | None = None) -> int:
    """`ppcls-ext doctor`."""
    parser = command_parser(
        "doctor",
        "doctor",
        "doctor MobileOne_S0 --data flowers/",
        "doctor -c my.yml",
        description="With a model or images also: do they fit, how long do a batch and a training step take. Writes "
        "nothing. Exits with 1 where there is a problem.",
    )
    add_training_arguments(parser)
    args = parser.parse_args(argv)
    source = require_source(parser, args)
    is_tried = source is not None or args.data is not None
    settings = open_training(source, args.override, data=args.data).settings if is_tried else None
    print(f"ppcls-ext {ppcls_ext.__version__}")
    problems = [finding.name for finding in _printed(check_installation()) if finding.advice]
    if settings is not None and NEEDED_FOR_TRAINING.isdisjoint(problems):
        found = try_configuration(settings, args.data, args.labels)
        problems += [finding.name for finding in _printed(found) if finding.advice]
    elif settings is not None:
        print(f"{source or DEFAULT} can be tried once training is possible")
    print(f"{len(problems)} problem{'s' * (len(problems) > 1)}" if problems else "no problems")
    return 1 if problems else 0


def _printed(findings: Iterable[Finding]) -> Iterator[Finding]:
    for finding in findings:
        line = printable(str(finding))
        if sys.stdout.isatty():
            width = shutil.get_terminal_size().columns
            line = textwrap.fill(line, width, subsequent_indent=" " * 22, break_on_hyphens=False)
        print(line, flush=True)
        yield finding
