"""The command that makes the synthetic data set for detection and segmentation."""

from __future__ import annotations

from pathlib import Path

from ppcls_ext.commands.options import command_parser
from ppcls_ext.data.shapes import DEFAULT_OUTPUT, NAMES, make


def main(argv: list[str] | None = None) -> None:
    """Command line of `ppcls-ext make-shapes-dataset`."""
    parser = command_parser(
        "make-shapes-dataset",
        "make-shapes-dataset --train 80 --val 20 --output dataset/few_shapes",
        description="The layouts are COCO's, for PaddleDetection, and PaddleSeg's.",
    )
    parser.add_argument("--output", type=Path, default=DEFAULT_OUTPUT, metavar="DIR", help="default: %(default)s")
    parser.add_argument("--size", type=int, default=96, metavar="PX", help="of the pictures, default: %(default)s px")
    parser.add_argument("--train", type=int, default=160, metavar="N", help="to train on, default: %(default)s")
    parser.add_argument("--val", type=int, default=40, metavar="N", help="to evaluate on, default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    parser.add_argument("--any-colour", action="store_true", help="harder: colours say nothing of the kind")
    parser.add_argument("--force", action="store_true", help="replace a data set made with other settings")
    args = parser.parse_args(argv)

    if make(args.output, args.size, args.train, args.val, args.seed, args.any_colour, args.force):
        print(f"{args.output}: {args.train} + {args.val} pictures of {args.size} px: {', '.join(NAMES)}")
    else:
        print(f"{args.output} is complete already: nothing to do")
    print("detection     annotations/{train,val}.json, images/ (configs/detection)")
    print("segmentation  train.txt, val.txt, images/, labels/ with 0 for the background (configs/segmentation)")
