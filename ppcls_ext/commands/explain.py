"""The command explain: where in an image the evidence for a class lies."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from ppcls_ext.commands.options import command_parser, open_run_with_weights
from ppcls_ext.data.image_files import find_images
from ppcls_ext.errors import NoSuchRunError, PpclsExtError, message_line, printable, printable_name
from ppcls_ext.packages import require
from ppcls_ext.predict.classifier import Classifier
from ppcls_ext.predict.evidence import split_file
from ppcls_ext.predict.results import NO_CLASS
from ppcls_ext.report.evidence_maps import EvidenceMaps


def main(argv: Sequence[str] | None = None) -> int:
    """`ppcls-ext explain`."""
    args = _parse(argv)
    require("matplotlib")  # before the work, not behind it
    files = find_images(args.images)
    maps, failed = _open(args.model, args.output, files, args.class_), 0
    for file in files:
        try:
            drawn = maps.draw(file)
        except PpclsExtError as error:
            failed += 1
            print(f"error: {message_line(error)}", file=sys.stderr)
            continue
        for one in drawn:
            print(f"{printable(str(one.path))}  {printable_name(one.name)} {one.score:.1%}", flush=True)
        if not drawn:
            print(f"{printable(str(file))}  {NO_CLASS}; --class draws the evidence for one", flush=True)
    return 1 if failed else 0


def _open(model: str, output: str, files: Sequence[Path], wanted: str | None) -> EvidenceMaps:
    path = Path(model)
    if path.suffix.lower() == ".onnx" or (path.is_file() and path.suffix != ".pdparams"):  # a file, no run
        return EvidenceMaps(split_file(model), Classifier(model).metadata, output, wanted, files)
    try:
        run = open_run_with_weights(model)
    except NoSuchRunError as error:
        raise PpclsExtError(f"{error}; or an ONNX file") from error
    metadata = run.metadata
    print(f"{printable(model)}: loading Paddle", file=sys.stderr, flush=True)  # which takes some seconds
    return EvidenceMaps(run.halves(), metadata, output, wanted, files)


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = command_parser(
        "explain",
        "explain output/MobileOne_S0 flower.jpg",
        "explain MobileOne_S0.onnx flower.jpg --output explained",
        description="Writes a PNG per image: the image as the net sees it, and over it the class activation map of "
        "the most probable class; of a multi-label net one for each class that the image shows. The map has a cell for "
        "each place of the net's last layer, 7×7 for 224 px, and is drawn smoothly. The net is that of a run's best "
        "weights, or of a file that export-onnx wrote, which needs no Paddle.",
    )
    parser.add_argument("model", metavar="RUN|FILE", help="folder that a training wrote, or ONNX file")
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="image, folder, or quoted pattern")
    which = "name or number (default: the most probable, or each at or above its threshold)"
    parser.add_argument("--class", dest="class_", metavar="CLASS", help=which)
    parser.add_argument("--output", default="explained", metavar="FOLDER", help="default: %(default)s")
    return parser.parse_args(argv)
