"""What a command works on: a run's folder, or the configuration of -c; with the options that change it."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import NamedTuple

from ppcls_ext.commands.options import add_config_arguments
from ppcls_ext.config.folder import CONFIG, Run, find_run, need_weights
from ppcls_ext.config.load import load_config, override, read_yaml

RUN_HELP = "folder that a training wrote, such as output/MobileOne_S0, or weights in it; instead of -c"


class Source(NamedTuple):
    """A configuration, and the run it belongs to where a run was named."""

    config: dict
    run: Run | None

    @property
    def folder(self) -> Path | None:
        """Of the run."""
        return self.run.folder if self.run else None


def add_source_arguments(parser: argparse.ArgumentParser, pictures: bool = False) -> None:
    """Adds RUN, -c and -o; with `pictures`, also the names of pictures behind RUN, or alone behind -c."""
    if pictures:
        parser.add_argument(
            "names", nargs="*", metavar="RUN PICTURE", help=f"{RUN_HELP}; pictures, folders or patterns"
        )
    else:
        parser.add_argument("names", nargs="?", metavar="RUN", help=RUN_HELP)
    add_config_arguments(parser, required=False)


def read_source(parser: argparse.ArgumentParser, args: argparse.Namespace) -> Source:
    """The configuration that the arguments name; a run's weights are its `Global.pretrained_model`.

    Raises:
        PpclsExtError: the run or the configuration is none.
    """
    names = [args.names] if isinstance(args.names, str) else list(args.names or ())
    if args.config is None:
        if not names:
            parser.error("expected RUN, the folder that a training wrote, or -c FILE")
        run = find_run(names.pop(0))
        source = Source(open_run(run, args.override), run)
        need_weights(run)
    elif isinstance(args.names, str):
        parser.error(f"got both {names[0]} and -c {args.config}: expected one of them")
    else:
        source = Source(load_config(args.config, args.override), None)
    if names:
        source.config.setdefault("Infer", {})["infer_imgs"] = names
    return source


def open_run(run: Run, overrides: list[str]) -> dict:
    """The configuration in a run's folder, with its weights and `overrides`.

    Raises:
        PpclsExtError: it is damaged, or an override fits nothing.
    """
    config = read_yaml(run.folder / CONFIG)
    run.adopt(config)
    return override(config, overrides)
