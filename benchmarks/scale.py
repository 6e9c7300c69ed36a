"""Measures what large data sets cost, one section a kind: seconds, CPU seconds and peak memory.

`lists` starts trainings with image lists of so many lines and ends them behind their first step. The images of a list
have different paths, and are a few files: its folders are symbolic links to one folder of 1300 images.

The time that counts is CPU time, where other processes use the machine; all is printed.

Example:
    python benchmarks/scale.py lists
    python benchmarks/scale.py lists --lines 1280000 --workers 2 --folder /data/scale
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

ROOT = Path(__file__).resolve().parents[1]
PER_FOLDER = 1300
"""Images of one class, about as many as ImageNet has."""
CLASSES = 1000
EVALUATED = 50_000
"""Images of the evaluation list."""


def main() -> int:
    """Runs a section."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sections = parser.add_subparsers(dest="section", required=True)
    of_lists = sections.add_parser("lists", help="the start of a training with a list of many lines")
    of_lists.add_argument("--lines", type=int, nargs="+", default=[10_000, 1_280_000, 13_000_000])
    of_lists.add_argument("--workers", type=int, default=2, help="processes that load images (default 2)")
    of_lists.add_argument("--folder", type=Path, help="where lists and images are made (default: a temporary folder)")
    of_lists.set_defaults(measure=lists)
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


if __name__ == "__main__":
    sys.exit(main())
