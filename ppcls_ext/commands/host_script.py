"""The command that runs a script of PaddleClas, PaddleDetection or PaddleSeg, unmodified, with our models in it."""

from __future__ import annotations

import argparse
import importlib
import os
import runpy
import sys
from collections.abc import Sequence
from pathlib import Path

from ppcls_ext.commands.outcome import interrupt_on_signals
from ppcls_ext.config.load import read_yaml
from ppcls_ext.errors import PpclsExtError
from ppcls_ext.hosts import checkouts
from ppcls_ext.hosts.paddleclas.loader_processes import end_with_their_parent, outlive_their_parent
from ppcls_ext.hosts.paddleclas.locate import HOME
from ppcls_ext.hosts.paddleclas.safe_pickle import read_without_running
from ppcls_ext.training.start import set_up

#: Package of a host → the module that registers our models in it.
REGISTRARS = {"ppdet": "ppcls_ext.hosts.paddledet", "paddleseg": "ppcls_ext.hosts.paddleseg"}
#: PaddleClas's option that changes a field.
OVERRIDES = ("-o", "--override")
#: PaddleClas's option that names a configuration.
CONFIG = ("-c", "--config")
#: PaddleClas's scripts that take these options.
WITH_CONFIG = ("train", "eval", "infer", "export_model")


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the script named first, with the arguments that follow.

    The PaddleClas that the script lies in is the one that is used, with its own engine and its own training loop: only
    the models, the adaptations to this Python and Paddle, and the safe readers of weights and images are ours. The
    command line stays the script's own; its `-o`, which takes one value, may take several as ours does.

    A script of a PaddleDetection, PaddleYOLO or PaddleSeg checkout finds our models among the backbones.

    Raises:
        PpclsExtError: there is no such script, or something is wrong with the configuration.
    """
    parser = argparse.ArgumentParser(
        prog="ppcls-ext",
        description=__doc__,
        epilog="example:\n  ppcls-ext ~/PaddleClas/tools/train.py -c my.yml -o Arch.name=MobileOne_S0\n"
        "  ppcls-ext ~/PaddleDetection/tools/train.py -c configs/detection/picodet_mobileone_s0.yml --eval",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("script", type=Path, help="a script of a checkout, such as tools/train.py")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="for the script")
    args = parser.parse_args(argv)
    script = args.script.resolve()
    if not script.is_file():
        raise PpclsExtError(f"no script {args.script}: expected one of PaddleClas's, such as tools/train.py")
    downstream = checkouts.of_script(script)
    if downstream is not None:
        with checkouts.needs_told(downstream, script.parents[1]):
            # by its root: the environment may name another checkout
            importlib.import_module(REGISTRARS[downstream.package]).register(script.parents[1])
            read_without_running()
            if outlive_their_parent():
                end_with_their_parent()
            run_script(script, args.arguments)
    else:
        run_script(script, prepare_paddleclas(script, args.arguments))


def run_script(script: Path, arguments: list[str]) -> None:
    """Runs a script as if it had been started with these arguments."""
    sys.argv = [str(script), *arguments]
    runpy.run_path(str(script), run_name="__main__")


def prepare_paddleclas(script: Path, arguments: list[str]) -> list[str]:
    """Registers our models in a script's PaddleClas; returns the script's arguments as it takes them.

    Raises:
        PpclsExtError: there is no PaddleClas with an engine, or the configuration is one for this project's commands.
    """
    if (script.parents[1] / "ppcls").is_dir():
        os.environ[HOME] = str(script.parents[1])
    set_up()
    interrupt_on_signals()
    if script.stem not in WITH_CONFIG:
        return arguments
    arguments = one_value_each(arguments)
    require_host_configuration(arguments)
    return arguments


def require_host_configuration(arguments: Sequence[str]) -> None:
    """Raises PpclsExtError where the options name what only this project's commands understand.

    PaddleClas would leave the section `Recipe` out without a word, and does not know the names of shipped
    configurations.
    """
    options = list(zip(arguments, arguments[1:]))
    names = [Path(value) for option, value in options if option in CONFIG]
    changes = [value for option, value in options if option in OVERRIDES]
    for name in names:
        if not name.is_file():
            raise PpclsExtError(f"-c {name}: PaddleClas's own scripts take a file, and there is none of this name")
    if any(read_yaml(name).get("Recipe") for name in names) or any(change.startswith("Recipe.") for change in changes):
        raise PpclsExtError(
            "the configuration has a section Recipe, which PaddleClas's own scripts do not know: train with ppcls-ext "
            "train, or leave the section out"
        )


def one_value_each(arguments: Sequence[str]) -> list[str]:
    """`-o a=1 b=2` as `-o a=1 -o b=2`, for PaddleClas's scripts; everything else stays as it is."""
    expanded: list[str] = []
    overriding = False
    for argument in arguments:
        is_option = argument.startswith("-")
        if overriding and not is_option and expanded[-1] not in OVERRIDES:
            expanded.append(OVERRIDES[0])
        overriding = argument in OVERRIDES or (overriding and not is_option)
        expanded.append(argument)
    return expanded
