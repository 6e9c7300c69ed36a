"""The command doctor: is everything there, and does it work?"""

from __future__ import annotations

import shutil
import sys
import textwrap
from collections.abc import Iterable, Iterator, Sequence

import ppcls_ext
from ppcls_ext.commands.options import add_config_arguments, command_parser
from ppcls_ext.config.load import load_config
from ppcls_ext.doctor import installation, machine
from ppcls_ext.doctor.finding import Finding, look_at_all
from ppcls_ext.errors import printable

#: Threads before Paddle, which sets the variable that they are read from.
CHECKS = {
    "Python": machine.python,
    "CPU": machine.processor,
    "threads": machine.threads,
    "memory": machine.memory,
    "Paddle": installation.paddle,
    "oneDNN": installation.onednn,
    "GPU": machine.gpu,
    "PaddleClas": installation.paddleclas,
    "its needs": installation.for_paddleclas,
    "paddle2onnx": installation.paddle2onnx,
    "onnxruntime": installation.onnxruntime,
}
#: Without these no configuration can be tried.
FOR_TRAINING = {"Paddle", "PaddleClas", "its needs"}


def main(argv: Sequence[str] | None = None) -> int:
    """`ppcls-ext doctor`."""
    parser = command_parser(
        "doctor",
        "doctor",
        "doctor -c MobileOne_S0",
        description="With -c also: are the data there, how long do a batch and a training step take. Writes nothing. "
        "Exits with 1 where there is a problem.",
    )
    add_config_arguments(parser, required=False)
    args = parser.parse_args(argv)
    config = load_config(args.config, args.override) if args.config else None
    print(f"ppcls-ext {ppcls_ext.__version__}")
    problems = [finding.name for finding in _printed(look_at_all(CHECKS)) if finding.advice]
    if config is not None and FOR_TRAINING.isdisjoint(problems):
        from ppcls_ext.doctor.trial import look_at

        problems += [finding.name for finding in _printed(look_at(config)) if finding.advice]
    elif config is not None:
        print(f"{args.config} can be tried once training is possible")
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
