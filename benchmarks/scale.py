"""What grows with the data: time and memory of one section, on data that it makes.

    python benchmarks/scale.py predict --count 20000
    python benchmarks/scale.py report --count 100000 --classes 21000

CPU seconds stand beside the wall's, as other programs on the machine lengthen these alone.
"""

from __future__ import annotations

import argparse
import contextlib
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))


def main() -> None:
    """Runs the section that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("section", choices=SECTIONS)
    parser.add_argument("--count", type=int, default=20_000, help="images (default: %(default)s)")
    parser.add_argument("--classes", type=int, default=1000, help="default: %(default)s")
    parser.add_argument("--side", type=int, default=0, help="px of a square image; 500 × 375 px by default")
    parser.add_argument("--crop", type=int, default=224, help="px of the network's input (default: %(default)s)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="scale_") as folder:
        SECTIONS[args.section](args, Path(folder))


@contextlib.contextmanager
def measured(what: str, count: int) -> Iterator[None]:
    """Prints what the body takes, with its child processes."""
    start = time.perf_counter(), _cpu()
    yield
    wall, cpu = time.perf_counter() - start[0], _cpu() - start[1]
    peak = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)) / 1024
    each = cpu / count * 1e6
    print(f"{what:<44} {wall:8.1f} s wall {cpu:8.1f} s CPU {each:8.0f} µs CPU an image {peak:7.0f} MB", flush=True)


def _cpu() -> float:
    return sum(sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))


def predict(args: argparse.Namespace, folder: Path) -> None:
    """`ppcls-ext predict --out` against a loop that only reads, decodes and prepares the same files."""
    from ppcls_ext.data.image_files import find_images
    from ppcls_ext.data.image_input import network_input
    from ppcls_ext.predict.classifier import Classifier

    model, images = folder / "model.onnx", folder / "images"
    _write_model(model, args.classes, args.crop)
    _write_images(images, args.count, (args.side, args.side) if args.side else (500, 375))
    with measured("finding the files", args.count):
        files = find_images([str(images)])
    rule = Classifier(model).metadata.preprocessing
    with measured("reading, decoding and preparing, one thread", args.count):
        for file in files:
            network_input(file, rule)
    for target in ("r.csv", "r.json"):
        with measured(f"predict --out {target}", args.count):
            command = [sys.executable, "-m", "ppcls_ext", "predict", model, images, "--out", folder / target]
            subprocess.run(list(map(str, command)), check=True, stdout=subprocess.DEVNULL, cwd=ROOT)
        print(f"{'':<44} {(folder / target).stat().st_size / 1e6:8.1f} MB")


def _write_model(path: Path, classes: int, crop: int) -> None:
    """A network that costs next to nothing: the means of the channels, and one matrix."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    from ppcls_ext.data.image_rule import Preprocessing
    from ppcls_ext.predict.metadata import Metadata

    weight = np.random.default_rng(0).normal(size=(3, classes)).astype(np.float32)
    nodes = [
        helper.make_node("GlobalAveragePool", ["image"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("MatMul", ["flat", "weight"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes,
        "scale",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 3, crop, crop])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", classes])],
        [numpy_helper.from_array(weight, "weight")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    names = tuple(f"class number {index}" for index in range(classes))
    metadata = Metadata("scale", Preprocessing(resize_short=crop * 8 // 7, crop=(crop, crop)), names)
    for key, value in metadata.to_properties().items():
        model.metadata_props.add(key=key, value=value)
    onnx.save(model, path)


def _write_images(folder: Path, count: int, size: tuple[int, int]) -> None:
    """JPEG files of smooth noise, each of 64 images many times."""
    from PIL import Image

    random, contents = np.random.default_rng(0), []
    for index in range(64):
        coarse = Image.fromarray(random.integers(0, 256, (12, 16, 3), dtype=np.uint8))
        coarse.resize(size, Image.Resampling.BICUBIC).save(folder.parent / f"{index}.jpg", quality=90)
        contents.append((folder.parent / f"{index}.jpg").read_bytes())
    for index in range(count):
        place = folder / f"{index // 1000:04d}"
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{index:07d}.jpg").write_bytes(contents[index % 64])


def report(args: argparse.Namespace, folder: Path) -> None:
    """What an evaluation keeps of its answers for the report, and the report, without the network."""
    from ppcls_ext.report.evaluation_report import write_evaluation_report
    from ppcls_ext.report.predictions import Predictions, ranked

    random, batch = np.random.default_rng(0), 128
    logits = random.normal(size=(batch, args.classes)).astype(np.float32)
    labels = random.integers(0, args.classes, args.count)
    right = random.random(args.count) < 0.7
    kept = []
    with measured(f"answers, {args.count:,} × {args.classes:,}", args.count):
        for start in range(0, args.count, batch):
            true = labels[start : start + batch]
            given = logits[: len(true)].copy()
            given[np.arange(len(true)), true] += 12 * right[start : start + batch]
            kept.append(ranked(given, true, are_logits=True))
    with measured("report", args.count):
        names = [f"class number {index}" for index in range(args.classes)]
        found = Predictions.of_batches(
            [f"{index}.jpg" for index in range(args.count)], labels, kept, args.classes, names
        )
        write_evaluation_report(found.check(), folder / "report", "scale", "")


SECTIONS = {"predict": predict, "report": report}

if __name__ == "__main__":
    main()
