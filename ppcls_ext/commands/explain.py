"""The command explain: where in a picture the evidence for a class lies."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ppcls_ext.commands.options import command_parser
from ppcls_ext.errors import PpclsExtError, one_line, printable
from ppcls_ext.pictures.find import find_images
from ppcls_ext.pictures.prepare import prepare
from ppcls_ext.pictures.rule import Preprocessing
from ppcls_ext.predict.classifier import Classifier
from ppcls_ext.predict.evidence import EvidenceReader
from ppcls_ext.report.activation_map import EXACT, FIRST_ORDER, activation_map, draw_activation_map
from ppcls_ext.report.sheets import to_pixels


def main(argv: Sequence[str] | None = None) -> int:
    """`ppcls-ext explain`."""
    args = _parse(argv)
    classifier, reader = Classifier(args.model), EvidenceReader(args.model)
    names = classifier.metadata.class_names or ()
    wanted = None if args.class_ is None else _class_index(args.class_, names)
    failed = 0
    for file in find_images(args.images):
        try:
            image = prepare(file, classifier.metadata.preprocessing)
        except PpclsExtError as error:
            print(f"error: {printable(one_line(error))}", file=sys.stderr)
            failed += 1
            continue
        probabilities = classifier.probabilities(image[None])[0]
        index = int(probabilities.argmax()) if wanted is None else wanted
        if index >= len(probabilities):
            raise PpclsExtError(f"--class is {index}: the file has the classes 0 to {len(probabilities) - 1}")
        evidence = reader.read(image, index)
        name = names[index] if index < len(names) and names[index] else f"class {index}"
        target = Path(args.output) / f"{file.stem}-class-{index}.png"
        draw_activation_map(
            _pixels(image, classifier.metadata.preprocessing),
            activation_map(evidence.features, evidence.derivative),
            name,
            float(probabilities[index]),
            EXACT if evidence.is_exact else FIRST_ORDER,
            target,
        )
        print(f"{printable(str(target))}  {printable(name)} {probabilities[index]:.1%}")
    return 1 if failed else 0


def _pixels(image: np.ndarray, rule: Preprocessing) -> np.ndarray:
    pixels = to_pixels(image[None], rule.mean, rule.std, rule.scale)[0]
    return pixels[:, :, ::-1] if rule.channel_order == "BGR" else pixels


def _class_index(text: str, names: Sequence[str]) -> int:
    if text in names:
        return list(names).index(text)
    if text.isdecimal() and len(text) < 8:
        return int(text)
    raise PpclsExtError(f"--class is {text!r}: expected a class's number" + (" or name" if names else ""))


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = command_parser(
        "explain",
        "explain MobileOne_S0.onnx flower.jpg --output explained",
        description="Writes a PNG per picture: the picture as the net sees it, and over it the class activation map of "
        "the most probable class. MODEL is a file that export-onnx wrote.",
    )
    parser.add_argument("model", metavar="MODEL", help="the ONNX file")
    parser.add_argument("images", nargs="+", metavar="PICTURE", help="picture, folder, or quoted pattern")
    parser.add_argument("--class", dest="class_", metavar="CLASS", help="name or number (default: the most probable)")
    parser.add_argument("--output", default="explained", metavar="FOLDER", help="default: %(default)s")
    return parser.parse_args(argv)
