"""The command models: the table of all models, without loading Paddle."""

from __future__ import annotations

import json
from collections.abc import Sequence

from ppcls_ext.commands.options import command_parser
from ppcls_ext.errors import PpclsExtError
from ppcls_ext.models.figures import FIGURES, SIZE
from ppcls_ext.models.table import MODELS
from ppcls_ext.weights.published import address, status

COLUMNS = ("model", "parameters (M)", "fused (M)", "MACs (G)", "top-1 (%)", "weights")
LEGEND = f"""\
parameters: with 1000 classes, unfused and fused; MACs: of the fused form at {SIZE} px
top-1: on ImageNet, as published (RepVGG_D2se's at 320 px); none was measured here
weights: -o Global.pretrained_model=published gets them; verified: a file of their publisher was tried here (of
MobileOne_S0 the fused one); published: none was"""


def main(argv: Sequence[str] | None = None) -> None:
    """`ppcls-ext models`."""
    parser = command_parser(
        "models",
        "models",
        "models RepVGG --markdown",
        "models --config ImageNet/RepVGG_A0 > my.yml",
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="only models whose names hold one of these")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="a JSON document, with the weights' addresses")
    form.add_argument("--markdown", action="store_true", help="a table for a Markdown file")
    form.add_argument(
        "--config", metavar="NAME", help="print a shipped configuration: MODEL, ImageNet/MODEL, digits/MobileOne_S0"
    )
    args = parser.parse_args(argv)
    if args.config:
        print(_configuration(args.config), end="")
        return
    names = [name for name in MODELS if not args.names or any(part.lower() in name.lower() for part in args.names)]
    if not names:
        raise PpclsExtError(f"no model is called {' or '.join(args.names)}: ppcls-ext models lists all")
    if args.json:
        print(json.dumps([_describe(name) for name in names], indent=2))
    else:
        rows = [COLUMNS, *map(_row, names)]
        print("\n".join(_markdown(rows) if args.markdown else [*_aligned(rows), "", LEGEND]))


def _describe(name: str) -> dict:
    figures = FIGURES[name]
    return {
        "name": name,
        "family": MODELS[name].family,
        "parameters_unfused": figures.unfused,
        "parameters_fused": figures.fused,
        f"macs_{SIZE}px": figures.macs,
        "published_top1": MODELS[name].published_top1,
        "weights": status(name),
        "weights_address": address(name),
    }


def _row(name: str) -> tuple[str, ...]:
    figures, top1 = FIGURES[name], MODELS[name].published_top1
    return (
        name,
        f"{figures.unfused / 1e6:.2f}",
        f"{figures.fused / 1e6:.2f}",
        f"{figures.macs / 1e9:.2f}",
        f"{top1:.2f}" if top1 else "none",
        status(name),
    )


def _aligned(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Words to the left, numbers to the right."""
    widths = [max(map(len, column)) for column in zip(*rows)]
    return [
        "  ".join(
            cell.rjust(width) if 0 < index < len(widths) - 1 else cell.ljust(width)
            for index, (cell, width) in enumerate(zip(row, widths))
        ).rstrip()
        for row in rows
    ]


def _markdown(rows: Sequence[tuple[str, ...]]) -> list[str]:
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return [lines[0], f"|---|{'---:|' * (len(COLUMNS) - 2)}---|", *lines[1:]]


def _configuration(name: str) -> str:
    from ppcls_ext.config.shipped import nearest, shipped  # its YAML library takes longer than the table

    text = shipped(name)
    if text is None:
        near = nearest(name) or ["MobileOne_S0", "ImageNet/RepVGG_A0"]
        raise PpclsExtError(f"no shipped configuration is called {name}: there are {', '.join(near)}, …")
    return text
