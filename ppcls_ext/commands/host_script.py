"""The command that runs a script of PaddleClas, PaddleDetection or PaddleSeg, unmodified, with our models in it."""

from __future__ import annotations

import argparse
import os
import runpy
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ppcls_ext
from ppcls_ext.commands.interruption import interrupt_on_sigterm
from ppcls_ext.config.load import load_config
from ppcls_ext.errors import PpclsExtError
from ppcls_ext.hosts.dense import checkouts
from ppcls_ext.hosts.paddleclas.locate import HOME
from ppcls_ext.hosts.paddleclas.safe_pickle import read_without_running
from ppcls_ext.training.start import set_up

REGISTER = {"ppdet": ppcls_ext.register_in_paddledet, "paddleseg": ppcls_ext.register_in_paddleseg}
#: PaddleClas's option that changes a field.
OVERRIDES = ("-o", "--override")
#: What PaddleClas's scripts do, by name.
MODES = {"train": "train", "eval": "eval", "infer": "infer", "export_model": "export"}


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the script named first, with the arguments that follow.

    The PaddleClas that the script lies in is the one that is used. Its scripts that train, evaluate, infer and export
    get this project's reader of configurations and its engine, so that all works as with this project's own tools
    (strict weights, section `Recipe`, whole checkpoints in `output_dir/ARCH`). The command line stays the script's own;
    its `-o`, which takes one value, may take several as ours does.

    A script of a PaddleDetection, PaddleYOLO or PaddleSeg checkout finds our models among the backbones.

    Raises:
        PpclsExtError: there is no such script, or something is wrong with the configuration.
    """
    parser = argparse.ArgumentParser(
        prog="ppcls-ext",
        description=__doc__,
        epilog="example:\n  ppcls-ext ~/PaddleClas/tools/train.py -c MobileOne_S0\n"
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
            checkouts.activate(downstream, script.parents[1])
            REGISTER[downstream.package]()
            read_without_running()
            run_script(script, args.arguments)
    else:
        run_script(script, prepare_paddleclas(script, args.arguments))


def run_script(script: Path, arguments: list[str]) -> None:
    """Runs a script as if it had been started with these arguments."""
    sys.argv = [str(script), *arguments]
    runpy.run_path(str(script), run_name="__main__")


def prepare_paddleclas(script: Path, arguments: list[str]) -> list[str]:
    """Registers our models in a script's PaddleClas and gives the script our engine; its arguments as it takes them."""
    if (script.parents[1] / "ppcls").is_dir():
        os.environ[HOME] = str(script.parents[1])
    set_up()
    interrupt_on_sigterm()
    if script.stem not in MODES:
        return arguments
    give_scripts_our_engine(MODES[script.stem])
    return one_value_each(arguments)


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


def give_scripts_our_engine(mode: str) -> None:
    """Puts our reader in the place of PaddleClas's `get_config` and our engine in the place of its `Engine`.

    Args:
        mode: "train", "eval", "infer" or "export".
    """
    import ppcls.engine.engine
    import ppcls.utils.config

    from ppcls_ext.config.prepare import prepare
    from ppcls_ext.training.engine import Engine

    def get_config(fname: str, overrides: Sequence[str] | None = None, show: bool = False) -> dict[str, Any]:
        config = prepare(load_config(fname, overrides or ()), mode)
        if show:
            ppcls.utils.config.print_config(config)
        return config

    ppcls.utils.config.get_config = get_config
    ppcls.utils.get_config = get_config
    ppcls.engine.engine.Engine = Engine
