"""The command average: one network of several trainings."""

from __future__ import annotations

from collections.abc import Sequence

from ppcls_ext.averages import average
from ppcls_ext.commands.options import command_parser
from ppcls_ext.errors import printable, printable_lines


def main(argv: Sequence[str] | None = None) -> None:
    """`ppcls-ext average`."""
    parser = command_parser(
        "average",
        "average output/MobileOne_S0 output/MobileOne_S0-2 output/MobileOne_S0-3",
        description="They must have begun with the same weights; what they need not share is the seed.",
    )
    parser.add_argument("runs", nargs="+", metavar="RUN", help="folder that a training wrote, or weights in it")
    parser.add_argument("--out", metavar="FOLDER", help="folder above the new run's (default: the first run's)")
    parser.add_argument("--name", help="of the new run's folder (default: the first run's, with -average)")
    parser.add_argument("--overwrite", action="store_true", help="replace a run of that name")
    parser.add_argument("-v", "--verbose", action="store_true", help="show PaddleClas's own output")
    args = parser.parse_args(argv)
    if len(args.runs) < 2:
        parser.error(f"got one RUN, {args.runs[0]}: expected at least two, whose weights are averaged")
    made = average(args.runs, out=args.out, name=args.name, overwrite=args.overwrite, verbose=args.verbose)
    if made.parts:
        print(printable_lines(made))
    if made.is_worse:
        print("the average is worse than one of its parts: did all begin with the same weights, and train long enough?")
    print(f"weights: {printable(str(made.run.folder / 'best_model.pdparams'))}")
