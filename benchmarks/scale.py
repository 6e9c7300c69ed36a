"""Measures what large data sets cost, one section a kind: seconds, CPU seconds and peak memory.

`lists` starts trainings with image lists of so many lines and ends them behind their first step. The images of a list
have different paths, and are a few files: its folders are symbolic links to one folder of 1300 images. `predict` writes
the predictions for so many files, beside a loop that only decodes them. `report` is the report of an evaluation,
without the network.

The time that counts is CPU time, where other processes use the machine; all is printed.

Example:
    python benchmarks/scale.py lists
    python benchmarks/scale.py --folder /data/scale lists --lines 1280000 --workers 2
    python benchmarks/scale.py predict --count 20000
    python benchmarks/scale.py report --count 100000 --classes 21000
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
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
PER_FOLDER = 1300
"""Images of one class, about as many as ImageNet has."""
CLASSES = 1000
EVALUATED = 50_000
"""Images of the evaluation list."""


def main() -> int:
    """Runs a section."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="where all is made (default: a temporary folder)")
    sections = parser.add_subparsers(dest="section", required=True)
    of_lists = sections.add_parser("lists", help="the start of a training with a list of many lines")
    of_lists.add_argument("--lines", type=int, nargs="+", default=[10_000, 1_280_000, 13_000_000])
    of_lists.add_argument("--workers", type=int, default=2, help="processes that load images (default 2)")
    of_lists.set_defaults(measure=lists)
    for name, measure, count in (("predict", predict, 20_000), ("report", report, 100_000)):
        section = sections.add_parser(name, help=(measure.__doc__ or "").splitlines()[0])
        section.add_argument("--count", type=int, default=count, help="images (default: %(default)s)")
        section.add_argument("--classes", type=int, default=1000, help="default: %(default)s")
        section.set_defaults(measure=measure)
    of_predict = sections.choices["predict"]
    of_predict.add_argument("--side", type=int, default=0, help="px of a square image; 500 × 375 px by default")
    of_predict.add_argument("--crop", type=int, default=224, help="px of the network's input (default: %(default)s)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        args.measure(args, Path(name))
    return 0


def lists(args: argparse.Namespace, folder: Path) -> None:
    """The start of a training, up to its first step, for each number of lines."""
    from PIL import Image

    images = folder / "images"
    images.mkdir()
    for index in range(PER_FOLDER):
        Image.effect_noise((64, 64), 50 + index / 100).convert("RGB").save(images / f"n00000000_{index}.JPEG")
    print(
        f"{'lines':>11} {'list, MB':>9} {'seconds':>8} {'CPU seconds':>12} {'peak, MB':>9} {'a worker’s own, MB':>19}"
    )
    for lines in args.lines:
        made = folder / str(lines)
        made.mkdir()
        write_list(made / "train_list.txt", made, images, lines, "n")
        write_list(made / "val_list.txt", made, images, EVALUATED, "v")
        options = [
            *(f"DataLoader.{loader}.dataset.image_root={made}" for loader in ("Train", "Eval")),
            f"DataLoader.Train.dataset.cls_label_path={made / 'train_list.txt'}",
            f"DataLoader.Eval.dataset.cls_label_path={made / 'val_list.txt'}",
            *(f"DataLoader.{loader}.sampler.batch_size=8" for loader in ("Train", "Eval")),
            *(f"DataLoader.{loader}.loader.num_workers={args.workers}" for loader in ("Train", "Eval")),
            f"Arch.class_num={CLASSES}",
            "Infer.PostProcess.class_id_map_file=null",
            "DataLoader.Train.dataset.transform_ops.1.RandCropImage.size=32",  # a net that costs next to nothing
            "DataLoader.Eval.dataset.transform_ops.1.ResizeImage.resize_short=32",
            "DataLoader.Eval.dataset.transform_ops.2.CropImage.size=32",
            f"Global.output_dir={made / 'output'}",
        ]
        command = [
            sys.executable,
            "-c",
            "import sys; from benchmarks.scale import start; start(sys.argv[1:])",
            *options,
        ]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(command, cwd=folder, env=environment, check=True, stdout=subprocess.PIPE, text=True)
        found = json.loads(done.stdout.splitlines()[-1])
        size = (made / "train_list.txt").stat().st_size / 1e6
        print(
            f"{lines:>11,} {size:>9.0f} {found['seconds']:>8.1f} {found['cpu']:>12.1f} {found['peak']:>9.0f} "
            f"{found['worker']:>19.0f}",
            flush=True,
        )


def write_list(path: Path, root: Path, images: Path, lines: int, letter: str) -> None:
    """Writes a list in the layout of ImageNet's, and its folders, which lead to `images`."""
    with open(path, "w") as stream:
        for number, first in enumerate(range(0, lines, PER_FOLDER)):
            name = f"{letter}{number:08}"
            (root / name).symlink_to(images, target_is_directory=True)
            for index in range(min(PER_FOLDER, lines - first)):
                stream.write(f"{name}/n00000000_{index}.JPEG {number % CLASSES}\n")


def start(options: list[str]) -> None:
    """Trains FasterNet_T0 with its shipped configuration, but for `options`, and ends behind the first step."""
    started = time.monotonic()
    from ppcls_ext.run import Run
    from ppcls_ext.training.start import set_up

    set_up()
    from ppcls_ext.training.engine import Engine
    from ppcls_ext.training.observers import Batch, Observer, TrainingEnds

    class FirstStep(Observer):
        """Ends a training behind its first step, and notes what it took."""

        def batch(self, batch: Batch) -> None:
            self.seconds = time.monotonic() - started
            self.worker = max(own_memory(), default=0.0)
            raise TrainingEnds("the first step is done")

    observer = FirstStep()
    engine = Engine(Run("FasterNet_T0", options).settings, "train")
    engine.observers.append(observer)
    engine.train()
    used = resource.getrusage(resource.RUSAGE_SELF)
    status = Path("/proc/self/status").read_text()
    peak = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")) / 1000
    cpu = used.ru_utime + used.ru_stime
    print(json.dumps({"seconds": observer.seconds, "cpu": cpu, "peak": peak, "worker": observer.worker}))


def own_memory() -> list[float]:
    """The memory that each child of this process has for itself, in MB."""
    found = []
    for children in Path("/proc/self/task").glob("*/children"):
        for pid in children.read_text().split():
            rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
            found.append(sum(int(line.split()[1]) for line in rollup.splitlines() if "Private" in line) / 1000)
    return found


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


if __name__ == "__main__":
    sys.exit(main())
