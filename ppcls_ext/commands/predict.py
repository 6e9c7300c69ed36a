"""The command predict: classifies images with an exported ONNX file, without Paddle."""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from ppcls_ext.commands.options import add_results_arguments, add_threshold_argument, command_parser, positive, size
from ppcls_ext.data.image_files import find_images
from ppcls_ext.errors import PpclsExtError, message_line, printable, printable_name
from ppcls_ext.predict.answers import Choice
from ppcls_ext.predict.classifier import BATCH, Classifier, classify
from ppcls_ext.predict.results import NO_CLASS, JsonArray, identity_of, open_results
from ppcls_ext.predict.runtimes import RUNTIMES
from ppcls_ext.progress import Report, progress, say
from ppcls_ext.report.image_figures import SavedImages, shrunk

TOPK = "most classes to print per image (default: 5; no limit where a threshold chooses, as of a multi-label MODEL)"

RESUME = "with --out: leave out the images whose results FILE holds, and add the others to it; when it is interrupted, "
RESUME += "the results so far stay in a .part file beside it, and the same command goes on from there"


def main(argv: Sequence[str] | None = None) -> int:
    """`ppcls-ext predict`."""
    args = _parse(argv)
    classifier = Classifier(args.model, args.threads, args.runtime, args.bf16, args.size)
    if classifier.batch and args.batch_size not in (None, classifier.batch):
        raise PpclsExtError(f"--batch-size is {args.batch_size}, but {args.model} was exported for {classifier.batch}")
    choose = Choice(classifier.metadata, args.topk, args.threshold and dict(args.threshold))
    files = find_images(args.images)

    saved = SavedImages(args.save_image, files, classifier.metadata.task) if args.save_image else None
    batch_size = classifier.batch or args.batch_size or BATCH
    keep = shrunk if saved is not None else None
    failed = 0
    with _outputs(args, files) as (files, write, report):
        for done, (file, result, image) in enumerate(classify(classifier, files, batch_size, choose, keep), 1):
            report(done, len(files))
            if isinstance(result, PpclsExtError):
                failed += 1
                say(f"error: {message_line(result)}")
                continue
            if saved is not None and image is not None:
                saved.add(file, image, result)
            write({"file_name": str(file), **result})
        if saved is not None and (line := saved.finish()):
            say(printable(line))
    return 1 if failed else 0


@contextlib.contextmanager
def _outputs(
    args: argparse.Namespace, files: list[Path]
) -> Iterator[tuple[list[Path], Callable[[dict[str, Any]], None], Report]]:
    """Yields the files whose results --out does not hold yet, and the functions that take a result and the progress."""
    with contextlib.ExitStack() as stack:
        takers: list[Callable[[dict[str, Any]], None]] = []
        if args.out:
            options = args.topk, args.threshold, args.runtime, args.bf16, *(args.size or ())
            resume = identity_of(args.model, *options) if args.resume else None
            writer = stack.enter_context(open_results(args.out, resume))
            files = [file for file in files if not writer.holds(str(file))]
            takers.append(writer.add)
        document = JsonArray(sys.stdout, indent=2, allow_nan=False) if args.json else None
        takers.append(_print_table if document is None else document.add)
        # on a terminal the table itself shows how far it is
        is_shown = document is None and sys.stdout.isatty()
        report: Report = _no_report if is_shown else stack.enter_context(progress("predicting"))

        def write(result: dict[str, Any]) -> None:
            for take in takers:
                take(result)

        yield files, write, report
        if document is not None:
            document.end()
            print()


def _no_report(done: int, total: int) -> None:
    pass


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
    parser.add_argument("--resume", action="store_true", help=RESUME)
    parser.add_argument("--batch-size", type=positive, metavar="N", help="images a run (default: the model's, or 8)")
    parser.add_argument("--threads", type=positive, metavar="N", help="of the runtime (default: its own choice)")
    parser.add_argument(
        "--runtime",
        choices=RUNTIMES,
        default="onnxruntime",
        help="what runs it; paddle takes the folder of export-model for MODEL (default: onnxruntime)",
    )
    parser.add_argument("--bf16", action="store_true", help="with --runtime openvino: compute in bfloat16")
    free = "of a MODEL for any size, the size of all images: a side, or HEIGHTxWIDTH (default: their own proportions)"
    parser.add_argument("--size", type=size, metavar="PX", help=free)
    parser.usage = "ppcls-ext predict MODEL IMAGE [IMAGE …] [options]"
    args = parser.parse_args(argv)
    if args.bf16 and args.runtime != "openvino":
        parser.error("--bf16 belongs to --runtime openvino")
    if args.resume and (args.out is None or args.save_image):
        parser.error("--resume belongs to --out, and excludes --save-image, which would draw over earlier images")
    if args.model is None:
        args.model, *args.images = args.images
        if not args.images:
            parser.error(f"expected a model and images, got {args.model} alone")
    return args


def _print_table(result: dict[str, Any]) -> None:
    print(printable(result["file_name"]))
    names = result["label_names"] or [""] * len(result["class_ids"])
    for index, score, name in zip(result["class_ids"], result["scores"], names):
        print(f"  {score:7.5f}  {index:5d}  {printable_name(name)}".rstrip())
    if not result["class_ids"]:
        print(f"  {NO_CLASS}")
