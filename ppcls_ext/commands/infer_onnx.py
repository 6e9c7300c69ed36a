"""The command that classifies images with an exported ONNX file, without Paddle."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from ppcls_ext.commands.options import positive
from ppcls_ext.errors import PpclsExtError, one_line, printable
from ppcls_ext.pictures.find import find_images
from ppcls_ext.predict.classifier import Classifier, classify


def main(argv: list[str] | None = None) -> int:
    """Command line of tools/infer_onnx.py."""
    parser = argparse.ArgumentParser(
        description="Classifies images with an ONNX file written by tools/export_onnx.py. Needs no Paddle.",
        epilog="example: python tools/infer_onnx.py --model MobileOne_S0.onnx flower.jpg photos/ 'more/*.png'",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="image file, folder, or quoted pattern")
    parser.add_argument("--model", required=True, metavar="FILE", help="the ONNX file")
    parser.add_argument("--topk", type=positive, default=5, metavar="K", help="classes to print per image (default: 5)")
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of a table")
    parser.add_argument("--batch-size", type=positive, metavar="N", help="images per run (default: the model's, or 8)")
    parser.add_argument("--threads", type=positive, metavar="N", help="of onnxruntime (default: its own choice)")
    args = parser.parse_args(argv)
    if hasattr(sys.stdout, "reconfigure"):  # names that the terminal cannot show must not end the run
        sys.stdout.reconfigure(errors="backslashreplace")

    classifier = Classifier(args.model, args.threads)
    if classifier.batch and args.batch_size not in (None, classifier.batch):
        raise PpclsExtError(f"--batch-size is {args.batch_size}, but {args.model} was exported for {classifier.batch}")
    files = find_images(args.images)

    results, failed = [], 0
    for file, result in classify(classifier, files, classifier.batch or args.batch_size or 8, args.topk):
        if isinstance(result, PpclsExtError):
            failed += 1
            print(f"error: {printable(one_line(result))}", file=sys.stderr)
        elif args.json:
            results.append({"file_name": str(file), **result})
        else:
            _print_table(file, result)
    if args.json:
        print(json.dumps(results, indent=2))
    return 1 if failed else 0


def _print_table(file: Path, result: dict[str, list]) -> None:
    print(printable(str(file)))
    names = result["label_names"] or [""] * len(result["class_ids"])
    for index, score, name in zip(result["class_ids"], result["scores"], names):
        print(f"  {score:7.5f}  {index:5d}  {printable(name)}".rstrip())
