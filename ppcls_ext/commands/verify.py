"""The command verify: one exported file in every runtime that is installed."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from ppcls_ext.commands.options import command_parser
from ppcls_ext.data.lists import MULTI_LABEL
from ppcls_ext.errors import PpclsExtError, message_line, printable
from ppcls_ext.export.agreement import compare_runtimes
from ppcls_ext.predict.coreml_model import COMPUTED
from ppcls_ext.predict.coreml_model import SUFFIX as PACKAGE
from ppcls_ext.predict.runtimes import RUNTIMES, with_version

WIDTH = 32
COLUMNS = "{:<32} {:>10} {:>12}"
#: What follows where images may show several labels; see `ppcls_ext.export.comparison.Agreement`.
FOUND = " {:>15}"
TIME = " {:>8}"


def main(argv: Sequence[str] | None = None) -> int:
    """`ppcls-ext verify`."""
    args = _parse(argv)
    file = str(Path(args.file))  # without the slash that a shell puts behind a package
    if Path(file).is_dir() and not file.endswith(PACKAGE):
        file = _onnx_of_run(file)
    found = compare_runtimes(file, args.images, args.program)
    several = found.task == MULTI_LABEL
    print(f"{printable(file)}: {found.images} images, compared with {with_version('onnxruntime')}", end="")
    print(f" ({found.seconds * 1e3:.1f} ms)" if file == found.source else f" on {printable(found.source)}")
    more = FOUND.format("found by both") if several else ""
    print(COLUMNS.format("runtime", "difference", "same label" if several else "same class") + more + TIME.format("ms"))
    failed = False
    for comparison in found.comparisons:
        failed |= not comparison.agrees
        agreed = comparison.agreement
        if agreed is None:
            print(f"{comparison.name:<{WIDTH}} {message_line(comparison.error)}")
            continue
        is_file = (RUNTIMES[comparison.runtime].suffix or "/") in comparison.name
        name = printable(comparison.name if is_file else with_version(comparison.runtime, comparison.name))
        line = COLUMNS.format(name, f"{agreed.change:.1e}", f"{agreed.same:.1%}")
        line += FOUND.format(f"{agreed.found:.1%}") if several else ""
        print(line + TIME.format("–" if comparison.seconds is None else f"{comparison.seconds * 1e3:.1f}"))
    computed = [comparison.name for comparison in found.comparisons if comparison.agreement and not comparison.seconds]
    if computed:
        print(f"{printable(', '.join(computed))}: {COMPUTED}")
    if failed:
        raise PpclsExtError(f"{file}: a runtime gives other answers than onnxruntime; the table says which")
    return 0


def _onnx_of_run(folder: str) -> str:
    """Returns the ONNX file in a run's folder.

    Raises:
        PpclsExtError: it is no run, or holds none.
    """
    from ppcls_ext.run import Run

    file = Run(folder).onnx_file()
    if not file.is_file():
        raise PpclsExtError(f"{folder} holds no {file.name}: ppcls-ext export-onnx {folder} writes it")
    return str(file)


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = command_parser(
        "verify", "verify MobileOne_S0.onnx photos", "verify MobileOne_S0.onnx photos --program inference"
    )
    what = (
        "ONNX file, which the files of its name beside it are compared with, too; one of these; or the folder of a run"
    )
    parser.add_argument("file", metavar="FILE", help=what)
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="image, folder, or quoted pattern")
    parser.add_argument("--program", metavar="FOLDER", help="that export-model wrote of the same weights, for Paddle")
    args = parser.parse_args(argv)
    if args.program is not None and not Path(args.program).is_dir():
        parser.error(f"--program {args.program}: expected a folder that export-model wrote")
    return args
