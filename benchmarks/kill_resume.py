"""Kills a training again and again, resumes it each time, and compares it with a training that was left alone.

A training of the real tool on small pictures gets SIGKILL at a random moment: of its first two epochs, or (every other
time) of the second after its first checkpoint file appears. It is started again with Global.checkpoints=latest until
the kills are used up, and may then end. Its weights, their moving average and the
state of its optimizer have to be the same to the last bit as those of an uninterrupted training.

Example:
    python benchmarks/kill_resume.py
    python benchmarks/kill_resume.py --kills 5 --model MobileOne_S0 --seed 7
"""

from __future__ import annotations

import argparse
import hashlib
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from ppcls_ext.weights.checkpoint_sets import NEW, find_newest, read_set
from ppcls_ext.weights.files import read_paddle_file

ROOT = Path(__file__).resolve().parents[1]
SIZE = 32  # px
IN_TRAINING, SAVING, COMMITTED = "training or evaluating", "saving, before it counts", "saving, after it counts"


def main() -> int:
    """Returns 0 where both trainings end with the same bits."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--model", default="FasterNet_T1", help="default: FasterNet_T1, which has stochastic depth")
    parser.add_argument("--pictures", type=int, default=60)
    parser.add_argument("--workers", type=int, default=0, help="processes that load pictures (default 0)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    args = parser.parse_args()
    moments = random.Random(args.seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make = [sys.executable, ROOT / "tools" / "make_sample_dataset.py", "--limit", args.pictures, "--size", SIZE]
        subprocess.run([*map(str, make)], cwd=folder, check=True, stdout=subprocess.DEVNULL)
        options = settings(args)
        started = time.monotonic()
        run(folder, [*options, "Global.output_dir=whole"]).communicate()
        whole = folder / "whole" / args.model
        print(f"uninterrupted: {epochs(args)} epochs of {args.model} in {time.monotonic() - started:.0f} s", flush=True)
        parts = folder / "parts" / args.model
        options.append("Global.output_dir=parts")
        hits: Counter[str] = Counter()
        epoch_seconds = (time.monotonic() - started) / epochs(args)
        for number in range(1, args.kills + 1):
            delay = moments.uniform(0, 1) if number % 2 == 0 else moments.uniform(0, 2 * epoch_seconds)
            where = start_and_kill(folder, parts, options, number % 2 == 0, delay)
            hits[where] += 1
            found, faults = find_newest(parts)
            epoch = found.state["epoch"] if found else 0
            print(f"kill {number:2}: {where:24} complete: epoch {epoch}; damaged: {faults or 'none'}", flush=True)
            if faults:
                return 1
        last = run(folder, resumed(options, parts))
        last.communicate()
        if last.returncode:
            print(f"the last start failed with {last.returncode}")
            return 1
        hashes = digest(whole / "latest"), digest(parts / "latest")
        left = [path.name for path in parts.rglob(f"*{NEW}")]
        print(
            f"kills: {sum(hits.values())}, of these " + ", ".join(f"{n} {where}" for where, n in sorted(hits.items()))
        )
        print(f"files left of interrupted saves: {left or 'none'}")
        for what, value in zip(("uninterrupted", "killed"), hashes):
            print(f"{what:13} {value}")
        print("the same bits" if hashes[0] == hashes[1] else "DIFFERENT")
        return int(hashes[0] != hashes[1])


def epochs(args: argparse.Namespace) -> int:
    """So many that the training does not end before the last kill: three for each."""
    return 3 * args.kills + 2


def settings(args: argparse.Namespace) -> list[str]:
    """The overrides of the digits configuration."""
    return [
        f"Arch.name={args.model}",
        "Global.seed=3",
        f"Global.epochs={epochs(args)}",
        "Global.save_interval=1000",
        "Global.print_batch_step=1",
        f"Global.image_shape=[3,{SIZE},{SIZE}]",
        "Optimizer.lr.warmup_epoch=1",
        "Recipe.ema.decay=0.9",
        "DataLoader.Train.sampler.batch_size=8",
        f"DataLoader.Train.loader.num_workers={args.workers}",
        "DataLoader.Eval.loader.num_workers=0",
        f"DataLoader.Train.dataset.transform_ops.1.RandCropImage.size={SIZE}",
        f"DataLoader.Eval.dataset.transform_ops.1.ResizeImage.resize_short={SIZE}",
        f"DataLoader.Eval.dataset.transform_ops.2.CropImage.size={SIZE}",
    ]


def run(folder: Path, options: list[str]) -> subprocess.Popen:
    """Starts tools/train.py in `folder`."""
    command = [sys.executable, ROOT / "tools" / "train.py", "-v", "-c", ROOT / "configs/digits/MobileOne_S0.yml", "-o"]
    return subprocess.Popen(
        [*map(str, command), *options], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def resumed(options: list[str], parts: Path) -> list[str]:
    """`options`, with which a training goes on where there is a checkpoint."""
    return [*options, "Global.checkpoints=latest"] if find_newest(parts)[0] else options


def start_and_kill(folder: Path, parts: Path, options: list[str], after_save: bool, delay: float) -> str:
    """Starts the training, kills it, and returns where it was.

    Args:
        folder: to run in.
        parts: of the checkpoints.
        options: of the training.
        after_save: count from the first file of a checkpoint, otherwise from the first update.
        delay: s.
    """
    process = run(folder, resumed(options, parts))
    for line in process.stdout:
        if "[Iter: 0/" in line and "[Train]" in line:
            break
    else:
        raise SystemExit(f"the training ended before it began: {process.stderr.read()}")
    while after_save and not list(parts.glob(f"*{NEW}")) and process.poll() is None:
        time.sleep(0.0005)
    time.sleep(delay)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    if process.returncode != -signal.SIGKILL:
        raise SystemExit(f"the training ended by itself, with {process.returncode}")
    left = list(parts.glob(f"*{NEW}"))
    if not left:
        return IN_TRAINING
    # after the manifest is in place, the file that waits for its renaming is the one that it lists
    prefix = left[0].with_name(left[0].name.split(".")[0])
    try:
        committed = any(path.suffix == NEW for path in read_set(prefix).files.values())
    except Exception:  # the first save of a set
        committed = False
    return COMMITTED if committed else SAVING


def digest(prefix: Path) -> str:
    """SHA-256 of all numbers in a set: weights, running statistics, their average, the optimizer's state."""
    found = read_set(prefix)
    total = hashlib.sha256()
    for suffix in (".pdparams", ".ema.pdparams", ".pdopt"):
        add(total, read_paddle_file(found.file(suffix)))
    return total.hexdigest()


def add(total: hashlib._Hash, content: object) -> None:
    """Adds names and numbers to `total`."""
    if isinstance(content, dict):
        for name, value in content.items():
            if name != "StructuredToParameterName@@":  # counted names, no numbers
                total.update(name.encode())
                add(total, value)
    elif isinstance(content, (list, tuple)):
        for value in content:
            if not isinstance(value, str):
                add(total, value)
    else:
        total.update(content.tobytes() if hasattr(content, "tobytes") else repr(content).encode())


if __name__ == "__main__":
    sys.exit(main())
