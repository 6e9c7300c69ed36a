"""The command that makes Oxford Flowers102 ready for training."""

from __future__ import annotations

from pathlib import Path

from ppcls_ext.commands.options import command_parser
from ppcls_ext.data.flowers102 import (
    ARCHIVE,
    DEFAULT_OUTPUT,
    IMAGES,
    LABEL_LIST,
    LISTS,
    MD5,
    NAMES,
    URL,
    origin_file,
    prepare,
)


def main(argv: list[str] | None = None) -> None:
    """`ppcls-ext prepare-flowers102`."""
    parser = command_parser(
        "prepare-flowers102",
        "prepare-flowers102 --download",
        description="Writes jpg/, the lists and the class names.",
    )
    origin = parser.add_mutually_exclusive_group(required=True)
    origin.add_argument("--download", action="store_true", help=f"get the files (329 MiB) from {URL}")
    origin.add_argument("--source", type=Path, metavar="DIR", help=f"take them from a folder: {', '.join(MD5)}")
    parser.add_argument("--output", type=Path, default=DEFAULT_OUTPUT, metavar="DIR", help="default: %(default)s")
    args = parser.parse_args(argv)

    if not prepare(args.output, args.source):
        print(f"{args.output} is complete already: nothing to do")
    else:
        print(f"{args.output}: {len(IMAGES)} images of {len(NAMES)} classes")
        for name in LISTS:
            lines = (args.output / name).read_text(encoding="utf-8").count("\n")
            print(f"  {name:<22}{lines:>5} images")
        print(f"  {LABEL_LIST}")
    if MD5[ARCHIVE] not in origin_file(args.output).read_text(encoding="utf-8"):
        print(
            f"note: {args.source / ARCHIVE} is not the official archive: its accuracies compare with no published ones"
        )
    if args.download:
        print(f"{args.output / 'download'} is no longer needed")
    if args.output != DEFAULT_OUTPUT:
        print(f"in the YAML, image_root and cls_label_path must name {args.output}")
    print("next: ppcls-ext train -c MobileOne_S0")
