"""The commands that make data sets and image lists."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from ppcls_ext.commands.options import add_labels_argument, add_split_arguments, command_parser, positive
from ppcls_ext.data import digits, flowers102, shapes
from ppcls_ext.data.class_folders import LABEL_LIST, TEST_LIST, TRAIN_LIST, VAL_LIST, make_lists
from ppcls_ext.data.image_rule import RGB, require_channels
from ppcls_ext.data.label_table import make_label_lists
from ppcls_ext.data.lists import read_list
from ppcls_ext.data.packing import pack_folder
from ppcls_ext.errors import PpclsExtError, printable
from ppcls_ext.progress import progress


def lists(argv: Sequence[str] | None = None) -> None:
    """`ppcls-ext make-lists`: PaddleClas's image lists for a folder of class folders, or with a table of labels."""
    parser = command_parser(
        "make-lists",
        "make-lists flowers/ --output lists",
        "make-lists more-flowers/ --classes-of output/MobileOne_S0",
        "make-lists photos/ --labels photos/labels.csv",
        description="Or of a folder with these in train/ and val/. `ppcls-ext train --data FOLDER` does it by itself.",
    )
    parser.add_argument("folder", metavar="FOLDER", help="the images, one folder a class")
    parser.add_argument("--output", metavar="FOLDER", default="lists", help="for the lists (default: lists)")
    classes = "count the classes as this run does; a folder may lack some of them"
    parser.add_argument("--classes-of", metavar="RUN", help=classes)
    add_labels_argument(parser)
    add_split_arguments(parser)
    _add_channels(parser)
    args = parser.parse_args(argv)
    require_channels(args.channels, "--channels is")
    names = _class_names(args.classes_of) if args.classes_of is not None else None
    split = args.val_share, args.split_seed
    with progress("reading images") as report:
        if args.labels and names is not None:
            parser.error("--classes-of is for class folders: with --labels the table names the classes")
        if args.labels:
            made = make_label_lists(args.folder, args.labels, args.output, *split, report, args.channels)
        else:
            made = make_lists(args.folder, args.output, *split, report, names, args.channels)
    for line in made.lines():
        print(printable(line))
    for name in (TRAIN_LIST, VAL_LIST, *([TEST_LIST] if any(made.test) else []), LABEL_LIST):
        print(printable(str(made.folder / name)))
    print(printable(f"in the YAML: class_num: {len(made.classes)}, image_root: {made.root}"))


def pack(argv: Sequence[str] | None = None) -> None:
    """`ppcls-ext pack`: the images of a folder of class folders in shards, with lists."""
    parser = command_parser(
        "pack",
        "pack imagenet/ --shards 1000 --output packed",
        description="Tar files in webdataset's layout; the lists name the images in them.",
    )
    parser.add_argument("folder", metavar="FOLDER", help="the images, one folder a class")
    parser.add_argument("--shards", type=int, metavar="N", required=True, help="tar files for the training images")
    parser.add_argument("--output", metavar="FOLDER", default="packed", help="default: packed")
    add_split_arguments(parser)
    _add_channels(parser)
    args = parser.parse_args(argv)
    require_channels(args.channels, "--channels is")
    split = args.val_share, args.split_seed
    with progress("packing images") as report:
        made = pack_folder(args.folder, args.output, args.shards, *split, report, args.channels)
    for line in made.lines():
        print(printable(line))
    lists = ", ".join(f"DataLoader.{loader}.dataset" for loader in ("Train", "Eval"))
    where = f"{lists}: image_root: {args.output}, and cls_label_path:"
    print(printable(f"in the YAML: class_num: {len(made.classes)}; {where}"))
    print(printable(f"{Path(args.output, TRAIN_LIST)}, {Path(args.output, VAL_LIST)}"))


def _add_channels(parser: argparse.ArgumentParser) -> None:
    of_images = "channels that the images must have: 1 grey, 3 RGB, 4 RGBA, … (default: 3)"
    parser.add_argument("--channels", type=positive, default=RGB, metavar="N", help=of_images)


def _class_names(run: str) -> tuple[str, ...]:
    from ppcls_ext.config.settings import open_run

    names = open_run(run).class_names
    if names is None:
        raise PpclsExtError(f"--classes-of {run}: its classes have no names (Infer.PostProcess.class_id_map_file)")
    return names


def make_flowers102(argv: Sequence[str] | None = None) -> None:
    """`ppcls-ext prepare-flowers102`: Oxford Flowers102, ready for training."""
    parser = command_parser(
        "prepare-flowers102",
        "prepare-flowers102 --download",
        description="Writes jpg/, the lists and the class names.",
    )
    origin = parser.add_mutually_exclusive_group(required=True)
    download = f"get the files (329 MiB) from {flowers102.URL}"
    origin.add_argument("--download", action="store_true", help=download)
    source = f"take them from a folder: {', '.join(flowers102.MD5)}"
    origin.add_argument("--source", type=Path, metavar="DIR", help=source)
    output = flowers102.DEFAULT_OUTPUT
    parser.add_argument("--output", type=Path, default=output, metavar="DIR", help="default: %(default)s")
    args = parser.parse_args(argv)

    if not flowers102.prepare(args.output, args.source):
        print(printable(f"{args.output} is complete already: nothing to do"))
    else:
        print(printable(f"{args.output}: {len(flowers102.IMAGES)} images of {len(flowers102.NAMES)} classes"))
        for name in flowers102.LISTS:
            lines = (args.output / name).read_text(encoding="utf-8").count("\n")
            print(f"  {name:<22}{lines:>5} images")
        print(f"  {flowers102.LABEL_LIST}")
    archive = flowers102.ARCHIVE
    if flowers102.MD5[archive] not in flowers102.origin_file(args.output).read_text(encoding="utf-8"):
        print(
            f"note: {args.source / archive} is not the official archive: its accuracies compare with no published ones"
        )
    if args.download:
        print(printable(f"{args.output / 'download'} is no longer needed"))
    if args.output != output:
        print(printable(f"in the YAML, image_root and cls_label_path must name {args.output}"))
    print("next: ppcls-ext train -c MobileOne_S0")


def make_digits(argv: Sequence[str] | None = None) -> None:
    """`ppcls-ext make-sample-dataset`: handwritten digits."""
    parser = command_parser(
        "make-sample-dataset",
        "make-sample-dataset --limit 200 --output dataset/digits200",
        description="They come with scikit-learn; the layout is PaddleClas's.",
    )
    output, most = digits.DEFAULT_OUTPUT, digits.IMAGES
    parser.add_argument("--output", type=Path, default=output, metavar="DIR", help="default: %(default)s")
    side = "side of the images, default: %(default)s px"
    parser.add_argument("--size", type=int, default=64, metavar="PX", help=side)
    parser.add_argument("--limit", type=int, default=most, metavar="N", help="images in all, default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="of the split, default: %(default)s")
    parser.add_argument("--force", action="store_true", help="replace a dataset made with other settings")
    args = parser.parse_args(argv)

    if digits.make(args.output, args.size, args.limit, args.seed, args.force):
        print(printable(f"{args.output}: {args.limit} images of {digits.CLASSES} classes, {args.size} px"))
    else:
        print(printable(f"{args.output} is complete already: nothing to do"))
    for name in digits.LISTS:
        print(printable(f"  {name:<16}{len(read_list(args.output / name, args.output, digits.CLASSES)):>5} images"))
    first = args.output / digits.LISTS[0]
    print(printable(f"in the YAML: class_num: {digits.CLASSES}, image_root: {args.output}, cls_label_path: {first}"))


def make_shapes(argv: Sequence[str] | None = None) -> None:
    """`ppcls-ext make-shapes-dataset`: coloured shapes for detection and segmentation."""
    parser = command_parser(
        "make-shapes-dataset",
        "make-shapes-dataset --train 80 --val 20 --output dataset/few_shapes",
        description="The layouts are COCO's, for PaddleDetection, and PaddleSeg's.",
    )
    output = shapes.DEFAULT_OUTPUT
    parser.add_argument("--output", type=Path, default=output, metavar="DIR", help="default: %(default)s")
    parser.add_argument("--size", type=int, default=96, metavar="PX", help="of the images, default: %(default)s px")
    parser.add_argument("--train", type=int, default=160, metavar="N", help="to train on, default: %(default)s")
    parser.add_argument("--val", type=int, default=40, metavar="N", help="to evaluate on, default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    parser.add_argument("--any-colour", action="store_true", help="harder: colours say nothing of the kind")
    parser.add_argument("--force", action="store_true", help="replace a data set made with other settings")
    args = parser.parse_args(argv)

    if shapes.make(args.output, args.size, args.train, args.val, args.seed, args.any_colour, args.force):
        print(
            printable(f"{args.output}: {args.train} + {args.val} images of {args.size} px: {', '.join(shapes.NAMES)}")
        )
    else:
        print(printable(f"{args.output} is complete already: nothing to do"))
    print("detection     annotations/{train,val}.json, images/ (configs/detection)")
    print("segmentation  train.txt, val.txt, images/, labels/ with 0 for the background (configs/segmentation)")
