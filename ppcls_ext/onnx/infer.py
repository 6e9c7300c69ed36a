"""Classifies images with an exported ONNX file; needs onnxruntime, NumPy and Pillow, and no Paddle.

How an image becomes the input, and the classes' names, are read from the file itself.
"""

from __future__ import annotations

import argparse
import glob
import json
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ppcls_ext.errors import PpclsExtError
from ppcls_ext.onnx.metadata import Metadata
from ppcls_ext.onnx.packages import one_line, require
from ppcls_ext.onnx.preprocessing import prepare

#: What counts as an image inside a folder; a file that is named itself is always tried.
SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".jp2")


class Classifier:
    """An exported ONNX file, ready to run.

    Args:
        path: the file.
        threads: of one operation; None leaves the choice to onnxruntime.

    Raises:
        PpclsExtError: the file is missing, damaged, or not exported by this project.
    """

    def __init__(self, path: str | os.PathLike, threads: int | None = None) -> None:
        require("onnxruntime")
        import onnxruntime

        if not Path(path).is_file():
            raise PpclsExtError(f"{path}: there is no such file; export one with tools/export_onnx.py")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or 0
        options.log_severity_level = 4  # failures come as exceptions
        try:
            self.session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's kinds have no common base
            raise PpclsExtError(
                f"{path}: onnxruntime cannot load it ({one_line(error)}); expected an ONNX file"
            ) from error
        try:
            self.metadata = Metadata.from_properties(self.session.get_modelmeta().custom_metadata_map)
        except PpclsExtError as error:
            raise PpclsExtError(f"{path}: {error}") from error
        (self.input,), (self.output,) = self.session.get_inputs(), self.session.get_outputs()
        batch, *image_shape = self.input.shape
        #: The batch that the file demands; None where any will do.
        self.batch = batch if isinstance(batch, int) else None
        width, height = self.metadata.preprocessing.image_size
        if image_shape != [3, height, width]:
            raise PpclsExtError(
                f"{path}: the network reads images of shape {image_shape}, but its metadata make {[3, height, width]}: "
                "export it again"
            )

    def probabilities(self, images: np.ndarray) -> np.ndarray:
        """Runs the network.

        Args:
            images: (N, 3, H, W) float32, prepared; N may be less than a fixed batch.

        Returns:
            (N, classes) float32.
        """
        count = len(images)
        if self.batch:
            images = np.concatenate([images, np.zeros((self.batch - count, *images.shape[1:]), images.dtype)])
        (scores,) = self.session.run([self.output.name], {self.input.name: images})
        return softmax(scores[:count]) if self.output.name == "logits" else scores[:count]

    def top(self, probabilities: np.ndarray, count: int) -> dict[str, list]:
        """The most probable classes of one image, best first, in the words of PaddleClas's inference.

        Args:
            probabilities: (classes,).
            count: how many; all where there are fewer classes.
        """
        indices = [int(index) for index in probabilities.argsort(kind="stable")[::-1][:count]]
        names = self.metadata.class_names
        return {
            "class_ids": indices,
            "scores": [round(float(probabilities[index]), 5) for index in indices],
            "label_names": [] if names is None else [names[i] if i < len(names) else "" for i in indices],
        }


def softmax(logits: np.ndarray) -> np.ndarray:
    """Softmax over the last axis: `logits: (N, classes)`."""
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def find_images(names: Sequence[str]) -> list[Path]:
    """The image files that the names stand for: files, folders (not their subfolders), glob patterns.

    Returns:
        In the order of the names, what is in a folder or fits a pattern sorted; each file once.

    Raises:
        PpclsExtError: a name stands for nothing.
    """
    found = {}
    for name in names:
        path = Path(name)
        if path.is_dir():
            files = sorted(file for file in path.iterdir() if file.suffix.lower() in SUFFIXES and file.is_file())
        elif path.exists() or not glob.has_magic(name):
            files = [path]  # a missing one is reported when its turn comes
        else:
            files = sorted(Path(file) for file in glob.glob(name, recursive=True) if Path(file).is_file())
        if not files:
            raise PpclsExtError(f"{name}: no image found; expected files, folders or patterns of {' '.join(SUFFIXES)}")
        for file in files:
            found.setdefault(os.path.realpath(file), file)
    return list(found.values())


def classify(
    classifier: Classifier, files: Sequence[Path], batch_size: int, topk: int
) -> Iterator[tuple[Path, dict[str, list] | PpclsExtError]]:
    """Classifies image files, `batch_size` at a time.

    Yields:
        Each file, in order, with its best classes, or with the error where it could not be read.
    """
    for start in range(0, len(files), batch_size):
        chunk: dict[Path, Any] = {}
        for file in files[start : start + batch_size]:
            try:
                chunk[file] = prepare(file, classifier.metadata.preprocessing)
            except PpclsExtError as error:
                chunk[file] = error
        images = [image for image in chunk.values() if isinstance(image, np.ndarray)]
        rows = iter(classifier.probabilities(np.stack(images)) if images else ())
        for file, image in chunk.items():
            yield file, image if isinstance(image, PpclsExtError) else classifier.top(next(rows), topk)


def positive(text: str) -> int:
    """A type for argparse: whole numbers from 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"got {text!r}, expected a whole number from 1")
    return int(text)


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
            print(f"error: {result}", file=sys.stderr)
        elif args.json:
            results.append({"file_name": str(file), **result})
        else:
            _print_table(file, result)
    if args.json:
        print(json.dumps(results, indent=2))
    return 1 if failed else 0


def _print_table(file: Path, result: dict[str, list]) -> None:
    print(file)
    names = result["label_names"] or [""] * len(result["class_ids"])
    for index, score, name in zip(result["class_ids"], result["scores"], names):
        print(f"  {score:7.5f}  {index:5d}  {name}".rstrip())
