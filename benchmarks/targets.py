"""Every target of `ppcls-ext export`: size, difference and equal classes to onnxruntime's file, and time.

Each network is exported to ONNX in float32, float16 and int8, and from there to LiteRT, Core ML, ncnn and web pages.
On images that calibrated nothing, a file's probabilities are compared with those of onnxruntime for the ONNX file of
the same precision. All that run here take turns with onnxruntime in float32, on one thread; web pages are opened in
headless Chromium, one image after the other.
Without weights of its own a network is random, with statistics and a head fitted to the images, so that its answers
differ from image to image as those of a trained one do.

Example: OMP_NUM_THREADS=1 python benchmarks/targets.py --images ../shared/imagenet_samples --output docs/bench
           --weights MobileOne_S0=mobileone_s0.pth.tar --litertjs node_modules/@litertjs/core
"""

import argparse
import base64
import contextlib
import csv
import datetime
import io
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
import numpy as np
import onnx
import paddle
from paddle import nn

from ppcls_ext import build, cpu, export_onnx, load_weights
from ppcls_ext.csv_table import CsvWriter
from ppcls_ext.data.image_files import find_images
from ppcls_ext.data.image_input import network_input
from ppcls_ext.export.float16 import store_as_float16
from ppcls_ext.export.formats import FORMATS, default_name, export_file
from ppcls_ext.export.int8 import quantize
from ppcls_ext.export.net import with_unsigned_weights
from ppcls_ext.export.opset import GELU_OPSET
from ppcls_ext.files import atomic_write
from ppcls_ext.predict.classifier import Classifier
from ppcls_ext.predict.latency import call_of, machine, measure
from ppcls_ext.predict.onnx_file import open_session
from ppcls_ext.predict.runtimes import with_version

MODELS = ("MobileOne_S0", "MobileOne_S4", "RepVGG_A0", "FasterNet_T0")
#: The targets with files of their own, in the order of the table; web pages are there where LiteRT.js is.
TARGETS = ("tflite", "coreml", "ncnn", "web")
#: One of so many images is compared on; of the others so many make int8 (half of them its scales).
COMPARED, CALIBRATING = 4, 64
#: Images that the statistics of a random network are of, and the logit of the class that an image gets.
STATISTICS, LOGIT = 32, 10.0
#: Of a random network's batch norms: β, γ behind a convolution, and the least variance as a part of the mean one.
SHIFT, BRANCH, FLOOR = 0.3, 0.4, 0.3
COLUMNS = ("model", "weights", "target", "precision", "mib", "difference", "same", "time")
#: What the page's own script does of one image, given as a data address.
IN_PAGE = """async (address) => {
  const image = await classifier.read(await (await fetch(address)).blob());
  const {scores, ms} = await classifier.classify(image);
  return [scores, ms];
}"""
Row = dict[str, str]


def main() -> None:
    """Measures and prints; with --output writes targets.csv and targets.md, where rows of other networks stay."""
    args = parse()
    table = args.output / "targets.csv" if args.output else None
    rows = read_rows(table) if table and table.is_file() else []
    for name in args.models:
        with tempfile.TemporaryDirectory() as folder:
            own = []
            for row in describe(name, args.weights.get(name), Path(folder), args):
                own.append(row)
                print(*row.values(), flush=True)
        rows = [row for row in rows if row["model"] != name] + own
        rows.sort(key=lambda row: MODELS.index(row["model"]))
        if table:
            write(table, rows, about(args))


def read_rows(table: Path) -> list[Row]:
    """The rows of targets.csv."""
    with table.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def write(table: Path, rows: Sequence[Row], measured: str) -> None:
    """Writes targets.csv, and targets.md beside it."""
    text = io.StringIO()
    writer = CsvWriter(text, newline="\n")
    for line in (COLUMNS, *(row.values() for row in rows)):
        writer.write(line)
    for path, content in ((table, text.getvalue()), (table.with_suffix(".md"), page(rows, measured))):
        with atomic_write(path, "w", encoding="utf-8") as file:
            file.write(content)


def describe(name: str, weights: str | None, folder: Path, args: argparse.Namespace) -> Iterator[Row]:
    """The rows of one network."""
    images = find_images([args.images])
    compared = images[::COMPARED]
    calibrating = [image for image in images if image not in compared][:CALIBRATING]
    sources = write_onnx(name, weights, compared, calibrating, folder)
    rule = Classifier(sources["float32"]).metadata.preprocessing
    inputs = [network_input(image, rule) for image in compared]
    expected = {precision: by_onnxruntime(path, inputs) for precision, path in sources.items()}

    calls, rows = {}, []
    for precision, path in sources.items():
        calls[f"onnx {precision}"] = call_of(Classifier(path, 1).network, inputs[0][None])
        rows.append(row(name, weights, "onnx", precision, path.stat().st_size / 2**20))
    reference = calls["onnx float32"]
    targets = TARGETS if args.litertjs else TARGETS[:-1]
    for to, precision in [(name, form) for name in targets for form in FORMATS[name].precisions]:
        # Core ML makes halves of the float32 file itself
        source = sources["float32" if (to, precision) == ("coreml", "float16") else precision]
        output = folder / default_name(name, to, precision)
        litertjs = args.litertjs if to == "web" else None
        report = export_file(source, to, output, precision=precision, litertjs=litertjs)
        ratio = None
        if to == "web":
            with opened(output, args.chromium) as answer:
                got, ratio = in_turns(answer, reference, compared)
        else:
            classifier = Classifier(output, 1)
            got = np.concatenate([classifier.scores(image[None]) for image in inputs])
            if to != "coreml":  # which is computed from its file, and not by Core ML
                calls[f"{to} {precision}"] = call_of(classifier.network, inputs[0][None])
        rows.append(row(name, weights, to, precision, report.size, got, expected[precision], ratio))
    found = measure(calls, args.turns)
    for one in rows:
        key = f"{one['target']} {one['precision']}"
        yield {**one, "time": f"{found[key].ratio:.2f}"} if key in found else one


def row(
    name: str,
    weights: str | None,
    to: str,
    precision: str,
    size: float,
    got: np.ndarray | None = None,
    expected: np.ndarray | None = None,
    ratio: float | None = None,
) -> Row:
    """One row; what was not measured is empty."""
    difference = same = ""
    if got is not None and expected is not None:
        difference = f"{np.abs(got - expected).max():.1e}"
        same = f"{(got.argmax(axis=1) == expected.argmax(axis=1)).sum()} of {len(got)}"
    shown = "" if ratio is None else f"{ratio:.2f}"
    cells = (name, "trained" if weights else "random", to, precision, f"{size:.2f}", difference, same, shown)
    return dict(zip(COLUMNS, cells))


def write_onnx(
    name: str, weights: str | None, images: Sequence[Path], calibrating: Sequence[Path], folder: Path
) -> dict[str, Path]:
    """Writes a network's ONNX files, one that is random fitted to `images`, and returns them by precision."""
    paddle.seed(0)
    model = build(name, fused=weights is not None)
    if weights:
        load_weights(model, weights)
    else:
        fit(model, images)
    path = folder / f"{name}.onnx"
    export_onnx(model, path, opset=GELU_OPSET)
    half = folder / f"{name}_fp16.onnx"
    half.write_bytes(store_as_float16(onnx.load(path)).SerializeToString())
    rule = Classifier(path).metadata.preprocessing
    prepared = np.stack([network_input(image, rule) for image in calibrating])
    eight, _ = quantize(onnx.load(path), prepared, allow=True, quiet=True)
    int8 = folder / f"{name}_int8.onnx"
    int8.write_bytes(eight.SerializeToString())
    return {"float32": path, "float16": half, "int8": int8}


def fit(model: nn.Layer, images: Sequence[Path]) -> None:
    """Gives a random network the statistics of images, and a head that names each image a class of its own."""
    from ppcls_ext.data.image_rule import Preprocessing

    inputs = [network_input(image, Preprocessing()) for image in images]
    for name, layer in model.named_sublayers():
        if isinstance(layer, nn.BatchNorm2D):
            layer._momentum = 0.0  # one pass sets the statistics
            # a net of random branches alone would magnify any rounding, from layer to layer
            layer.bias.set_value(paddle.full(layer.bias.shape, SHIFT))
            if name.endswith("bn"):
                layer.weight.set_value(paddle.full(layer.weight.shape, BRANCH))
    with paddle.no_grad():
        model.train()
        model(paddle.to_tensor(np.stack(inputs[:: -(-len(inputs) // STATISTICS)])))
    model.eval()
    for layer in model.sublayers():
        if isinstance(layer, nn.BatchNorm2D):  # nor may a channel that is dead in these images be alive in others
            variance = layer._variance.numpy()
            layer._variance.set_value(np.maximum(variance, FLOOR * variance.mean()))
    fit_head(model, inputs)


def fit_head(model: nn.Layer, inputs: Sequence[np.ndarray]) -> None:
    """Gives a network a head that names each image a class of its own."""
    head = [layer for layer in model.sublayers() if isinstance(layer, nn.Linear)][-1]
    features: list[np.ndarray] = []
    with paddle.no_grad():
        hook = head.register_forward_pre_hook(lambda _, given: features.append(given[0].numpy()))
        for image in inputs:
            model(paddle.to_tensor(image[None]))
        hook.remove()
    rows = np.concatenate(features).astype(np.float64)
    mean = rows.mean(axis=0)
    rows -= mean
    gram = rows @ rows.T
    # a ridge, as features of a random network are much alike, and an exact solution would magnify any rounding
    solved = rows.T @ np.linalg.solve(gram + 0.01 * np.trace(gram) / len(gram) * np.eye(len(gram)), np.eye(len(gram)))
    weight = np.zeros(head.weight.shape)
    weight[:, : len(inputs)] = LOGIT * solved
    head.weight.set_value(weight.astype(np.float32))
    head.bias.set_value((-mean @ weight).astype(np.float32))


def by_onnxruntime(path: Path, inputs: Sequence[np.ndarray]) -> np.ndarray:
    """Probabilities (images, classes); of int8 as the file defines them, on a CPU without int8 instructions too."""
    session = open_session(with_unsigned_weights(onnx.load(path)), 1)
    return np.concatenate([session.run(None, {"image": image[None]})[0] for image in inputs])


@contextlib.contextmanager
def opened(path: Path, chromium: str) -> Iterator[Callable[[Path], tuple[list[float], float]]]:
    """Opens a page in headless Chromium; yields what gives an image's scores and the milliseconds that they took."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        tab = browser.new_page()
        tab.goto(path.as_uri())
        tab.evaluate("classifier.ready")

        def answer(image: Path) -> tuple[list[float], float]:
            data = base64.b64encode(image.read_bytes()).decode()
            return tuple(tab.evaluate(IN_PAGE, f"data:image/{image.suffix[1:].lower()};base64,{data}"))

        yield answer
        browser.close()


def in_turns(answer: Callable, reference: Callable[[], object], images: Sequence[Path]) -> tuple[np.ndarray, float]:
    """Returns a page's scores, and the median of its time as a part of the reference's, call by call."""
    rows, ratios = [], []
    answer(images[0])  # the first call sets things up
    for image in images:
        start = time.perf_counter()
        reference()
        milliseconds = (time.perf_counter() - start) * 1e3
        scores, own = answer(image)
        rows.append(scores)
        ratios.append(own / milliseconds)
    return np.array(rows, np.float32), statistics.median(ratios)


def about(args: argparse.Namespace) -> str:
    """Where and how it was measured."""
    runtimes = ", ".join(map(with_version, ("onnxruntime", "tflite", "ncnn", "coreml")))
    if args.litertjs:
        done = subprocess.run([args.chromium, "--version"], capture_output=True, text=True, check=True)
        runtimes += f", {done.stdout.strip()}"
    features = " ".join(cpu.features())
    images = len(find_images([args.images])[::COMPARED])
    return (
        f"{datetime.date.today()}, {machine()} ({features}), one thread; {runtimes}; {images} images of 224 px, "
        f"medians of {args.turns} turns{args.note and f'; {args.note}'}"
    )


def page(rows: Sequence[Row], measured: str) -> str:
    """targets.md."""
    return HEADER.format(about=measured) + tables(rows)


def tables(rows: Sequence[Row]) -> str:
    """A table for each network."""
    text = ""
    for name in dict.fromkeys(one["model"] for one in rows):
        own = [one for one in rows if one["model"] == name]
        text += f"\n## {name}, {own[0]['weights']} weights\n\n"
        text += "| target | precision | MiB | largest difference | same class | time |\n|---|---|---|---|---|---|\n"
        for one in own:
            cells = (FORMATS[one["target"]].name, *(one[key] for key in COLUMNS[3:]))
            text += f"| {' | '.join(cells)} |\n"
    return text


HEADER = """# Phones and browsers

Written by `benchmarks/targets.py`: {about}.

The difference is that of the probabilities to onnxruntime's for the ONNX file **of the same precision**, and the class
the best one; how much int8 loses against float32 stands in [int8](../explanation/quantization.md). Time is that of one
image as a part of onnxruntime's in float32, by turns; of ONNX files too. int8 of the ONNX file is computed with weights
that saturate nowhere, as the file defines it. Web pages were opened in Chromium, and their time is what they say
themselves, that of the network alone.

**Nothing here was run on a phone or on Apple hardware, and no page in another browser.** Core ML was computed from its
files, which tells nothing about its time. It computes float16 and int8 in halves, where the ONNX files only store
halves or levels: hence its differences. ncnn has no int8 here. Random networks are fitted to the images, so that their
answers differ from image to image.
"""


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=MODELS, choices=MODELS, metavar="NAME")
    parser.add_argument("--images", required=True, metavar="FOLDER", help="photographs; a quarter is compared on")
    weights = "trained weights of a model; others are random"
    parser.add_argument("--weights", nargs="+", default=[], metavar="NAME=FILE", help=weights)
    parser.add_argument("--litertjs", metavar="FOLDER", help="of @litertjs/core; without it there are no web pages")
    parser.add_argument("--chromium", default="/usr/bin/chromium", metavar="FILE", help="opens the pages")
    parser.add_argument("--turns", type=int, default=50, metavar="N")
    parser.add_argument("--note", default="", metavar="TEXT", help="about the machine, for the page")
    parser.add_argument("--output", type=Path, metavar="FOLDER", help="for targets.csv and targets.md (default: none)")
    args = parser.parse_args()
    args.weights = dict(pair.split("=", 1) for pair in args.weights)
    return args


if __name__ == "__main__":
    main()
