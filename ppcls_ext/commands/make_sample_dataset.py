"""The command that makes the sample data set of handwritten digits."""

from __future__ import annotations

from pathlib import Path

from ppcls_ext.commands.options import command_parser
from ppcls_ext.data.digits import CLASSES, DEFAULT_OUTPUT, IMAGES, LISTS, make
from ppcls_ext.data.lists import read_list


def main(argv: list[str] | None = None) -> None:
    """`ppcls-ext make-sample-dataset`."""
    parser = command_parser(
        "make-sample-dataset",
        "make-sample-dataset --limit 200 --output dataset/digits200",
        description="They come with scikit-learn; the layout is PaddleClas's.",
    )
    parser.add_argument("--output", type=Path, default=DEFAULT_OUTPUT, metavar="DIR", help="default: %(default)s")
    parser.add_argument(
        "--size", type=int, default=64, metavar="PX", help="side of the images, default: %(default)s px"
    )
    parser.add_argument("--limit", type=int, default=IMAGES, metavar="N", help="images in all, default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="of the split, default: %(default)s")
    parser.add_argument("--force", action="store_true", help="replace a dataset made with other settings")
    args = parser.parse_args(argv)

    if make(args.output, args.size, args.limit, args.seed, args.force):
        print(f"{args.output}: {args.limit} images of {CLASSES} classes, {args.size} px")
    else:
        print(f"{args.output} is complete already: nothing to do")
    for name in LISTS:
        print(f"  {name:<16}{len(read_list(args.output / name, args.output, CLASSES)):>5} images")
    print(f"in the YAML: class_num: {CLASSES}, image_root: {args.output}, cls_label_path: {args.output / LISTS[0]}")
