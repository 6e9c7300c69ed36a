"""The command `ppcls-ext`, which is `python -m ppcls_ext`: finds the sub-command and runs it."""

from __future__ import annotations

import difflib
import functools
import importlib
import os
import sys
from collections.abc import Sequence

import ppcls_ext
from ppcls_ext.commands.outcome import run
from ppcls_ext.commands.table import COMMANDS, overview


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a sub-command, or one of PaddleClas's scripts.

    Args:
        argv: the command's name and its arguments; those of the program where None.

    Returns:
        The exit code: 0 done, 1 failed, 2 bad usage, 130 ended by Ctrl-C.
    """
    _replace_closed_streams()
    if hasattr(sys.stdout, "reconfigure"):  # names that the terminal cannot show must not end the run
        sys.stdout.reconfigure(errors="backslashreplace")
    name, *arguments = (sys.argv[1:] if argv is None else argv) or [""]
    if name in COMMANDS:
        command = COMMANDS[name]
        return run(functools.partial(_load, command.module, command.function, arguments))
    if name.endswith(".py") or os.sep in name:
        return run(functools.partial(_load, "host_script", "main", [name, *arguments]))
    if name in ("-h", "--help"):
        return run(lambda: print(overview()))
    if name == "--version":
        return run(lambda: print(f"ppcls-ext {ppcls_ext.__version__}"))
    if not name:
        print(overview(), file=sys.stderr)
        return 2
    near = difflib.get_close_matches(name, COMMANDS, n=2)
    hint = f"did you mean {' or '.join(near)}?" if near else "ppcls-ext --help lists the commands"
    print(f"ppcls-ext: error: there is no command {name!r}: {hint}", file=sys.stderr)
    return 2


def _replace_closed_streams() -> None:
    """Puts the null device in the place of standard streams that are closed (`>&-`).

    Else the next files that are opened would have their numbers, and get what C++ libraries print.
    """
    for number, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        try:
            os.fstat(number)
        except OSError:
            null = os.open(os.devnull, os.O_RDWR)
            if null != number:
                os.dup2(null, number)
                os.close(null)
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115  as long as the process


def _load(module: str, function: str, arguments: list[str]) -> int | None:
    """Imports a command only now, so that the others' packages need not be there."""
    return getattr(importlib.import_module(f"ppcls_ext.commands.{module}"), function)(arguments)
