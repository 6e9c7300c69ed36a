"""The command predict: classifies images with an exported ONNX file, without Paddle."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from ppcls_ext.commands.options import add_results_arguments, add_threshold_argument, command_parser, positive
from ppcls_ext.data.image_files import find_images
from ppcls_ext.errors import PpclsExtError, one_line, printable
from ppcls_ext.predict.answers import Choice
from ppcls_ext.predict.classifier import BATCH, Classifier, classify
from ppcls_ext.predict.results import NO_CLASS, write_results
from ppcls_ext.predict.runtimes import RUNTIMES
from ppcls_ext.report.image_figures import SavedImages, shrunk

TOPK = "most classes to print per image (default: 5; no limit where a threshold chooses, as of a multi-label MODEL)"


def main(argv: Sequence[str] | None = None) -> int:
    """`ppcls-ext predict`."""
    args = _parse(argv)
    classifier = Classifier(args.model, args.threads, args.runtime, args.bf16)
    if classifier.batch and args.batch_size not in (None, classifier.batch):
        raise PpclsExtError(f"--batch-size is {args.batch_size}, but {args.model} was exported for {classifier.batch}")
    choose = Choice(classifier.metadata, args.topk, args.threshold and dict(args.threshold))
    files = find_images(args.images)

    saved = SavedImages(args.save_image, len(files), classifier.metadata.task) if args.save_image else None
    results, failed = [], 0
    batch_size = classifier.batch or args.batch_size or BATCH
    keep = shrunk if saved is not None else None
    for file, result, image in classify(classifier, files, batch_size, choose, keep):
        if isinstance(result, PpclsExtError):
            failed += 1
            print(f"error: {printable(one_line(result))}", file=sys.stderr)
            continue
        if saved is not None and image is not None:
            saved.add(file, image, result)
        results.append({"file_name": str(file), **result})
        if not args.json:
            _print_table(file, result)
    if args.json:
        print(json.dumps(results, indent=2, allow_nan=False))
    if saved is not None:
        print(printable(saved.finish()), file=sys.stderr)
    if args.out:
        write_results(args.out, results)
    return 1 if failed else 0


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = command_parser(
        "predict",
        "predict MobileOne_S0.onnx flower.jpg photos 'more/*.png'",
        description="MODEL is a file that export-onnx wrote: size, preparation of images and class names are in it.",
    )
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="image, folder, or quoted pattern")
    parser.add_argument("--model", metavar="MODEL", help="the ONNX file (default: the first argument)")
    parser.add_argument("--topk", type=positive, metavar="K", help=TOPK)
    add_threshold_argument(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of a table")
    add_results_arguments(parser)
    parser.add_argument("--batch-size", type=positive, metavar="N", help="images a run (default: the model's, or 8)")
    parser.add_argument("--threads", type=positive, metavar="N", help="of the runtime (default: its own choice)")
    parser.add_argument(
        "--runtime",
        choices=RUNTIMES,
        default="onnxruntime",
        help="what runs it; paddle takes the folder of export-model for MODEL (default: onnxruntime)",
    )
    parser.add_argument("--bf16", action="store_true", help="with --runtime openvino: compute in bfloat16")
    parser.usage = "ppcls-ext predict MODEL IMAGE [IMAGE …] [options]"
    args = parser.parse_args(argv)
    if args.bf16 and args.runtime != "openvino":
        parser.error("--bf16 belongs to --runtime openvino")
    if args.model is None:
        args.model, *args.images = args.images
        if not args.images:
            parser.error(f"expected a model and images, got {args.model} alone")
    return args


def _print_table(file: Path, result: dict[str, list]) -> None:
    print(printable(str(file)))
    names = result["label_names"] or [""] * len(result["class_ids"])
    for index, score, name in zip(result["class_ids"], result["scores"], names):
        print(f"  {score:7.5f}  {index:5d}  {printable(name)}".rstrip())
    if not result["class_ids"]:
        print(f"  {NO_CLASS}")
