"""Searches for the recipe that fine-tunes MobileOne_S0 best on few images, and measures what each ingredient is worth.

Each experiment is the shipped Flowers102 recipe with a few fields changed. It is trained in a process of its own, once
a seed, and judged on the validation list alone; `--test` measures the test list too, once a recipe is chosen. What was
measured is a row of a csv file, and is not measured again: the search goes on where it was stopped.

Example: ppcls-ext prepare-flowers102 --download
         python benchmarks/recipe_search.py --weights mobileone_s0.pth.tar --seeds 1 2 3
         python benchmarks/recipe_search.py --weights mobileone_s0.pth.tar base "lr 0.0006"    # these alone
         python benchmarks/recipe_search.py --average base --seeds 1 2 3      # of trainings that are there
         python benchmarks/recipe_search.py --table                                            # what is known so far
         python benchmarks/recipe_search.py --page                       # and the same in docs/explanation/accuracy.md
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import platform
import re
import resource
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import paddle
import yaml

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
import ppcls_ext
from ppcls_ext import cpu
from ppcls_ext.config.settings import RunSettings
from ppcls_ext.config.shipped import RECIPES, to_config
from ppcls_ext.files import atomic_write
from ppcls_ext.report.tables import read_metrics
from ppcls_ext.training.engine import Engine
from ppcls_ext.training.precise_statistics import compute_statistics, first_images

RESULTS = ROOT / "docs" / "bench" / "recipe_search.csv"
TEST = "dataset/flowers102/test_list.txt"
PAGE = ROOT / "docs" / "explanation" / "accuracy.md"
#: What all experiments share: a schedule that is long enough to tell recipes apart, and short enough for many of them.
SHARED = (
    "Global.image_size=128",
    "Global.epochs=12",
    "Global.eval_interval=4",
    "Recipe.unfuse.pictures=512",
    "Recipe.precise_statistics=null",
    "Arch.num_conv_branches=4",
    *(f"DataLoader.{part}.loader.num_workers=0" for part in ("Train", "Eval")),
)
_TRAIN = "DataLoader.Train.dataset"
_CROP, _AFTER_FLIP = f"{_TRAIN}.transform_ops.1.RandCropImage", f"{_TRAIN}.transform_ops.3"
_BATCH = "DataLoader.Train.sampler.batch_size"
_RESIZE = "DataLoader.Eval.dataset.transform_ops.1.ResizeImage"
_MIXING = f"{_TRAIN}.batch_transform_ops.0.OpSampler"
_CUBIC = tuple(f"{place}.{field}" for place in (_CROP, _RESIZE) for field in ("interpolation=bicubic", "backend=pil"))
_ALL_MIXED = (f"{_MIXING}.MixupOperator.prob=0.5", f"{_MIXING}.CutmixOperator.prob=0.5")
_ONE_BRANCH = ("Arch.num_conv_branches=1",)
_BF16 = "AMP={level: O1, dtype: bfloat16}"
_LONG = (*_ONE_BRANCH, "Global.image_size=224", *_ALL_MIXED, "Global.epochs=40", "Global.eval_interval=40", _BF16)
_BOTH = "dataset/flowers102/train_val_list.txt"
_OPERATORS = to_config(RECIPES["MobileOne_S0.yml"])["DataLoader"]["Train"]["dataset"]["transform_ops"]
_OPERATORS[1]["RandCropImage"]["size"] = 128
_ERASING = {"EPSILON": 0.25, "sl": 0.02, "sh": 0.3333, "r1": 0.3, "use_log_aspect": True, "mode": "pixel"}
_ERASED = (f"{_TRAIN}.transform_ops={json.dumps([*_OPERATORS, {'RandomErasing': _ERASING}])}",)
_FUSED = ("Arch.fused=true", "Recipe.unfuse=null", "Optimizer.lr.learning_rate=0.0002")
#: name → the fields that differ from the shared ones.
EXPERIMENTS: dict[str, tuple[str, ...]] = {
    "base": (),
    "160 px": ("Global.image_size=160",),
    "192 px": ("Global.image_size=192",),
    "224 px": ("Global.image_size=224",),
    "96 px, then 128, then 160": (
        "Recipe.progressive=[{epoch: 1, size: 96}, {epoch: 5, size: 128}, {epoch: 9, size: 160}]",
    ),
    "40 epochs": ("Global.epochs=40",),
    "lr 0.00015": ("Optimizer.lr.learning_rate=0.00015",),
    "lr 0.0006": ("Optimizer.lr.learning_rate=0.0006",),
    "lr 0.001": ("Optimizer.lr.learning_rate=0.001",),
    "head's lr ×3": ("Recipe.head_learning_rate=3",),
    "head's lr ×30": ("Recipe.head_learning_rate=30",),
    "warm-up 3 epochs": ("Optimizer.lr.warmup_epoch=3",),
    "no average": ("Recipe.ema=null",),
    "average 0.98": ("Recipe.ema.decay=0.98",),
    "average 0.99": ("Recipe.ema.decay=0.99",),
    "average 0.998": ("Recipe.ema.decay=0.998",),
    "no smoothing": ("Loss.Train.0.CELoss.epsilon=0",),
    "smoothing 0.2": ("Loss.Train.0.CELoss.epsilon=0.2",),
    "no mixing": (f"{_TRAIN}.batch_transform_ops=null",),
    "all batches mixed": _ALL_MIXED,
    "TrivialAugment's range": (f"{_AFTER_FLIP}={{TimmAutoAugment: {{config_str: rand-m5-n1-mstd2.5-inc1}}}}",),
    "RandAugment 7": (f"{_AFTER_FLIP}={{TimmAutoAugment: {{config_str: rand-m7-mstd0.5-inc1}}}}",),
    "crops from 0.08": (f"{_CROP}.scale=[0.08, 1.0]",),
    "crops from 0.6": (f"{_CROP}.scale=[0.6, 1.0]",),
    "cubic": _CUBIC,
    "decay 0.2": ("Optimizer.weight_decay=0.2",),
    "two stages frozen": ("Recipe.freeze=backbone:2",),
    "one stage frozen": ("Recipe.freeze=backbone:1",),
    "batches of 16": (f"{_BATCH}=16",),
    "batches of 16, lr × √½": (f"{_BATCH}=16", "Optimizer.lr.learning_rate=0.00021"),
    "batches of 64": (f"{_BATCH}=64",),
    "batches of 64, lr × √2": (f"{_BATCH}=64", "Optimizer.lr.learning_rate=0.00042"),
    "one conv branch": _ONE_BRANCH,
    "one conv branch, 192 px": (*_ONE_BRANCH, "Global.image_size=192"),
    "one conv branch, 224 px": (*_ONE_BRANCH, "Global.image_size=224"),
    "one conv branch, 224 px, all batches mixed": (*_ONE_BRANCH, "Global.image_size=224", *_ALL_MIXED),
    "one conv branch, 192 px, all batches mixed, 40 epochs": (
        *_ONE_BRANCH,
        "Global.image_size=192",
        *_ALL_MIXED,
        "Global.epochs=40",
    ),
    "one conv branch, 192 px, all batches mixed, 40 epochs, bf16": (
        *_ONE_BRANCH,
        "Global.image_size=192",
        *_ALL_MIXED,
        "Global.epochs=40",
        "Global.eval_interval=40",
        _BF16,
    ),
    "as shipped, bf16": (*_ONE_BRANCH, "Global.image_size=224", "Global.epochs=40", "Global.eval_interval=40", _BF16),
    "one conv branch, 224 px, all batches mixed, 40 epochs, bf16": _LONG,
    "one conv branch, 224 px, all batches mixed, 40 epochs, bf16, taught by two of these": _LONG,
    "one conv branch, bf16": (*_ONE_BRANCH, _BF16),
    "one conv branch, bf16, random erasing": (*_ONE_BRANCH, _BF16, *_ERASED),
    "one conv branch, 192 px, all batches mixed, 20 epochs, bf16, train and val": (
        *_ONE_BRANCH,
        "Global.image_size=192",
        *_ALL_MIXED,
        "Global.epochs=20",
        "Global.eval_interval=20",
        f"{_TRAIN}.cls_label_path={_BOTH}",
        _BF16,
    ),
    "one conv branch, 40 epochs": (*_ONE_BRANCH, "Global.epochs=40"),
    "fused": _FUSED,
    "fused, lr 0.00005": (*_FUSED, "Optimizer.lr.learning_rate=0.00005"),
    "fused, lr 0.0001": (*_FUSED, "Optimizer.lr.learning_rate=0.0001"),
    "fused, lr 0.0004": (*_FUSED, "Optimizer.lr.learning_rate=0.0004"),
    "fused, 40 epochs": (*_FUSED, "Global.epochs=40"),
    "fused, 192 px": (*_FUSED, "Global.image_size=192"),
    "fused, 224 px": (*_FUSED, "Global.image_size=224"),
    "fused, 256 px": (*_FUSED, "Global.image_size=256"),
    "fused, 224 px, cubic": (*_FUSED, "Global.image_size=224", *_CUBIC),
    "fused, 224 px, 40 epochs": (*_FUSED, "Global.image_size=224", "Global.epochs=40"),
}
#: What is tried with fused weights, too, whose step takes a quarter of the time.
_TRIED_FUSED = (
    *("head's lr ×3", "head's lr ×30", "warm-up 3 epochs", "no average", "average 0.98", "average 0.998"),
    *("no smoothing", "smoothing 0.2", "no mixing", "all batches mixed", "TrivialAugment's range", "RandAugment 7"),
    *("crops from 0.08", "crops from 0.6", "cubic", "decay 0.2", "one stage frozen", "batches of 16"),
)
#: What is tried with one conv branch in bfloat16, too.
_TRIED_BF16 = (
    *("96 px, then 128, then 160", "160 px", "192 px", "224 px"),
    *("lr 0.00015", "lr 0.0006", "head's lr ×3", "head's lr ×30"),
    *("warm-up 3 epochs", "no average", "average 0.99", "average 0.998", "no smoothing", "smoothing 0.2", "no mixing"),
    *("all batches mixed", "TrivialAugment's range", "RandAugment 7", "crops from 0.08", "crops from 0.6", "cubic"),
    *("decay 0.2", "one stage frozen", "two stages frozen", "batches of 16", "batches of 16, lr × √½", "40 epochs"),
)
EXPERIMENTS |= {f"one conv branch, bf16, {name}": (*_ONE_BRANCH, _BF16, *EXPERIMENTS[name]) for name in _TRIED_BF16}
EXPERIMENTS |= {f"fused, {name}": (*_FUSED, *EXPERIMENTS[name]) for name in _TRIED_FUSED}
_BY_TWO = ", taught by two of these"
#: What learns from the answers of trainings that are there (`Recipe.teachers`) → their experiment and seeds.
TAUGHT = {name: (name[: -len(_BY_TWO)], (1, 2)) for name in EXPERIMENTS if name.endswith(_BY_TWO)}
#: The sizes that a trained network is evaluated at, relative to the training's (arXiv 1906.06423); multiples of 32 px.
LARGER = (1.25, 1.5)
FIELDS = (
    *("experiment", "seed", "train_images", "epochs", "px", "best_epoch", "val_best", "val_last", "val_loss_last"),
    *("val_at_1.25", "val_at_1.5", "val_flip", "precise_val", "precise_val_flip", "precise_val_at_1.25"),
    *("precise_val_loss", "test", "precise_test", "precise_test_flip"),
    *("cpu_minutes", "minutes", "processor", "paddle"),
)
#: How an average of several trainings' weights is called.
AVERAGE = "average"
#: How the table begins.
COLUMNS = "| what differs |"


def main() -> int:
    """Runs what is not measured yet, and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiments", nargs="*", metavar="EXPERIMENT", help="names (default: all)")
    parser.add_argument("--weights", help="ImageNet's weights to begin with: a file, or published")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3], help="default: 1 2 3")
    parser.add_argument("--output", type=Path, default=Path("output", "recipe_search"), help="folder of the trainings")
    parser.add_argument("--results", type=Path, default=RESULTS, help="csv file (default: %(default)s)")
    parser.add_argument("--test", action="store_true", help="measure the test list, too: of a recipe that is chosen")
    parser.add_argument("--again", action="store_true", help="measure the finished trainings with precise statistics")
    parser.add_argument("--average", action="store_true", help="measure the average of finished trainings' weights")
    parser.add_argument("--table", action="store_true", help="print the table of what was measured, and do nothing")
    parser.add_argument("--page", action="store_true", help="as --table, and write it to the end of the page about it")
    args = parser.parse_args()
    unknown = [name for name in args.experiments if name not in EXPERIMENTS]
    if unknown:
        parser.error(f"no experiment is called {unknown[0]!r}: expected one of {', '.join(EXPERIMENTS)}")
    if args.average:
        measure_averages(args.experiments, args.seeds, args.output, args.results, args.test)
    elif args.again:
        measure_again(args.experiments, args.seeds, args.output, args.results, args.test)
    elif not (args.table or args.page):
        if args.weights is None:
            parser.error("expected --weights FILE|published")
        for seed in args.seeds:  # a seed of all, before the next
            for name in args.experiments or EXPERIMENTS:
                if not any((row["experiment"], row["seed"]) == (name, str(seed)) for row in read_rows(args.results)):
                    row = measure(name, seed, args.weights, args.output, args.test)
                    new = {field: str(row.get(field, "")) for field in FIELDS}
                    write_rows(args.results, [*read_rows(args.results), new])  # another search may have added some
                    print(f"{name}, seed {seed}: val {row['val_last']}, {row['cpu_minutes']} CPU minutes", flush=True)
    found = table(read_rows(args.results))
    print(found)
    if args.page:
        text = PAGE.read_text(encoding="utf-8")
        text = f"{text[: text.index(COLUMNS)]}{found}\n"
        with atomic_write(PAGE, "w", encoding="utf-8") as stream:
            stream.write(text)
    return 0


def measure(name: str, seed: int, weights: str, output: Path, with_test: bool) -> dict[str, object]:
    """Trains one experiment and evaluates it.

    Args:
        name: a key of `EXPERIMENTS`.
        seed: of all random numbers.
        weights: what it begins with.
        output: the folder of the trainings.
        with_test: whether the test list is measured.

    Returns:
        A value for each of `FIELDS`.
    """
    run = output / folder_name(name, seed)
    shutil.rmtree(run, ignore_errors=True)
    learns_val = any(text.endswith(f"={_BOTH}") for text in EXPERIMENTS[name])
    if learns_val:
        write_list_of_both()
    said = [*SHARED, *EXPERIMENTS[name], f"Global.seed={seed}", f"Global.pretrained_model={weights}"]
    said += [f"Global.output_dir={run.parent}", f"Global.run_name={run.name}"]
    if name in TAUGHT:
        teacher, seeds = TAUGHT[name]
        files = [str(last_weights(beside(output / folder_name(teacher, number)))) for number in seeds]
        said.append(f"Recipe.teachers={{runs: {json.dumps(files)}}}")
    wall, used = time.monotonic(), _cpu_seconds()
    run_command("train", "-c", "MobileOne_S0", "--quiet", "-o", *said)
    wall, used = time.monotonic() - wall, _cpu_seconds() - used
    epochs = [row for row in read_metrics(run / "metrics.csv") if row["eval_top1"] is not None]
    record = json.loads((run / "run.json").read_text(encoding="utf-8"))
    px = next(int(text.split("=")[1]) for text in reversed(said) if text.startswith("Global.image_size="))
    return {
        "experiment": name,
        "seed": seed,
        "train_images": record["lists"]["Train"]["pictures"],
        "epochs": f"{epochs[-1]['epoch']:.0f}",
        "px": px,
        **({} if learns_val else measure_val(run, px, epochs)),
        **(measure_test(run) if with_test or learns_val else {}),
        "cpu_minutes": f"{used / 60:.1f}",
        "minutes": f"{wall / 60:.1f}",
        "processor": cpu.name(),
        "paddle": f"{record['versions']['paddlepaddle']}, Python {platform.python_version()}",
    }


def write_list_of_both() -> None:
    """Writes the list of the training and the validation images, of which no validation is left."""
    with atomic_write(Path(_BOTH), "w", encoding="utf-8") as stream:
        for part in ("train", "val"):
            stream.write(Path(_BOTH).with_name(f"{part}_list.txt").read_text(encoding="utf-8"))


def measure_val(run: Path, px: int, epochs: list[dict[str, float | None]]) -> dict[str, object]:
    """What a finished training has come to on the validation list.

    Args:
        run: its folder.
        px: the side of its images.
        epochs: the rows of its metrics.csv with an evaluation.
    """
    best = max(epochs, key=lambda row: row["eval_top1"] or 0.0)
    return {
        "best_epoch": f"{best['epoch']:.0f}",
        "val_best": f"{best['eval_top1']:.4f}",
        "val_last": f"{epochs[-1]['eval_top1']:.4f}",
        "val_loss_last": f"{epochs[-1]['eval_loss']:.4f}",
        **{f"val_at_{factor}": evaluate(run, px=round(px * factor / 32) * 32) for factor in LARGER},
        "val_flip": evaluate(run, "--tta", "flip"),
        **measure_precise(run, px),
    }


def measure_averages(names: list[str], seeds: list[int], output: Path, results: Path, with_test: bool) -> None:
    """Measures the averages of finished trainings' weights, anew where they were measured."""
    if not names:
        sys.exit("error: expected the names of trainings to average")
    for name in names:
        row = measure_average(name, seeds, output, read_rows(results), with_test)
        rows = [old for old in read_rows(results) if not _same(old, row)]
        write_rows(results, [*rows, {field: str(row.get(field, "")) for field in FIELDS}])


def measure_average(
    name: str, seeds: list[int], output: Path, rows: list[dict[str, str]], with_test: bool
) -> dict[str, str]:
    """Evaluates the average of the weights that trainings ended with; its minutes are the sum of theirs.

    Args:
        name: a key of `EXPERIMENTS`.
        seeds: of the trainings, which are in `output`.
        output: the folder of the trainings.
        rows: what was measured of them.
        with_test: whether the test list is measured.
    """
    parts = [row for row in rows if row["experiment"] == name and row["seed"] in map(str, seeds)]
    run = output / folder_name(name, "-".join(map(str, seeds)))
    files = [str(last_weights(output / folder_name(name, seed))) for seed in seeds]
    used = _cpu_seconds()
    run_command("average", *files, "--out", str(run.parent), "--name", run.name, "--overwrite")
    spent = (_cpu_seconds() - used) / 60 + sum(float(row["cpu_minutes"]) for row in parts)
    measured = {"precise_val": evaluate(run), "precise_val_flip": evaluate(run, "--tta", "flip")}
    if with_test:
        measured["precise_test"] = evaluate(run, data=TEST)
        measured["precise_test_flip"] = evaluate(run, "--tta", "flip", data=TEST)
    kept = ("train_images", "epochs", "px", "processor", "paddle")
    same = {field: parts[0][field] for field in kept}
    return {
        "experiment": f"{AVERAGE} of {len(seeds)}: {name}",
        "seed": " ".join(map(str, seeds)),
        "cpu_minutes": f"{spent:.1f}",
        **same,
        **measured,
    }


def _same(one: Mapping[str, str], other: Mapping[str, str]) -> bool:
    return all(one[field] == other[field] for field in ("experiment", "seed"))


def measure_again(names: list[str], seeds: list[int], output: Path, results: Path, with_test: bool) -> None:
    """Fills the columns of trainings that were measured before they were there, from their folders."""
    for row in read_rows(results):
        run = output / folder_name(row["experiment"], row["seed"])
        if (names and row["experiment"] not in names) or row["seed"] not in map(str, seeds) or not run.exists():
            continue
        new = measure_precise(run, int(row["px"])) if not row["precise_val"] else {}
        new |= measure_test(run) if with_test and not row["test"] else {}
        if new:
            rows = read_rows(results)  # another search may have added some
            for other in rows:
                if _same(other, row):
                    other.update(new)
            write_rows(results, rows)
            print(row["experiment"], row["seed"], new, flush=True)


def folder_name(name: str, seed: int | str) -> str:
    """The name of a training's folder."""
    return f"{re.sub(r'[^a-z0-9.]+', '_', name.lower())}-{seed}"


def measure_precise(run: Path, px: int) -> dict[str, str]:
    """Evaluates a finished training with precise statistics, which change nothing while it is trained.

    Args:
        run: its folder; the fused form has no statistics.
        px: the side of its images.
    """
    if _is_fused(run):
        return {}
    precise = with_precise_statistics(run)
    larger = round(px * LARGER[0] / 32) * 32
    return {
        "precise_val": evaluate(precise),
        "precise_val_flip": evaluate(precise, "--tta", "flip"),
        "precise_val_at_1.25": evaluate(precise, px=larger),
        "precise_val_loss": evaluate(precise, metric="loss"),
    }


def _is_fused(run: Path) -> bool:
    return bool(yaml.safe_load((run / "config.yml").read_text(encoding="utf-8"))["Arch"].get("fused"))


def measure_test(run: Path) -> dict[str, str]:
    """Evaluates a finished training on the test list, both ways where its precise statistics lie beside it."""
    precise = beside(run)
    measured = {"test": evaluate(run, data=TEST)}
    if not precise.exists() and not _is_fused(run):
        with_precise_statistics(run)
    if precise.exists():
        measured["precise_test"] = evaluate(precise, data=TEST)
        measured["precise_test_flip"] = evaluate(precise, "--tta", "flip", data=TEST)
    return measured


def beside(run: Path) -> Path:
    """The folder of a training's weights with precise statistics."""
    return run.with_name(f"{run.name}-precise")


def with_precise_statistics(run: Path) -> Path:
    """Writes the weights of a finished training's last epoch with precise statistics, and returns their folder."""
    precise = beside(run)
    shutil.rmtree(precise, ignore_errors=True)
    precise.mkdir()
    shutil.copy(run / "config.yml", precise)
    config = yaml.safe_load((run / "config.yml").read_text(encoding="utf-8"))
    config["Global"].update(pretrained_model=None, checkpoints=None, output_dir=str(precise), run_name="built")
    config["Recipe"].update(ema=None, unfuse=None)
    ppcls_ext.register()
    engine = Engine(RunSettings(config), "train")
    engine.network.set_state_dict(paddle.load(str(last_weights(run))))
    engine.network.train()
    compute_statistics(engine.network, first_images(engine.train_dataloader, None))
    paddle.save(engine.network.state_dict(), str(precise / "latest.ema.pdparams"))
    return precise


def last_weights(run: Path) -> Path:
    """The weights of a training's last epoch, their moving average where there is one; those of an average.

    Where there are none, the search ends.
    """
    paths = [run / f"{name}.pdparams" for name in ("latest.ema", "latest", "best_model")]
    found = next((path for path in paths if path.exists()), None)
    return found or sys.exit(f"error: {run} has no weights: train it first")


def evaluate(run: Path, *options: str, px: int | None = None, data: str | None = None, metric: str = "top1") -> str:
    """Returns the top-1 accuracy of a run's last epoch, on its validation list where no other is given.

    Args:
        run: its folder.
        options: further ones of `ppcls-ext eval`.
        px: another side of the images than the run's.
        data: another list.
        metric: another metric.
    """
    chosen = [*options, *(["--data", data] if data else [])]
    if px is not None:
        chosen += ["-o", f"Global.image_size={px}"]
    found = json.loads(run_command("eval", str(last_weights(run)), "--json", *chosen))
    return f"{found['metrics'][metric]:.4f}"


def run_command(*arguments: str) -> str:
    """Runs `ppcls-ext` and returns what it prints; a failure ends the search."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "ppcls_ext", *arguments]
    return subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True).stdout


def _cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def read_rows(path: Path) -> list[dict[str, str]]:
    """Reads the csv file; no row where there is none."""
    if not path.exists():
        return []
    with open(path, encoding="utf-8", newline="") as stream:
        return [{field: row.get(field, "") for field in FIELDS} for row in csv.DictReader(stream)]


def write_rows(path: Path, rows: list[dict[str, str]]) -> None:
    """Writes the csv file anew."""
    with atomic_write(path, "w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, FIELDS)
        writer.writeheader()
        writer.writerows(rows)


def table(rows: list[dict[str, str]]) -> str:
    """Returns a table in Markdown: a row an experiment, the best first; means over seeds and their spread, in %."""
    names = [*EXPERIMENTS, *(row["experiment"] for row in rows if row["experiment"].startswith(AVERAGE))]
    of = {name: [row for row in rows if row["experiment"] == name] for name in dict.fromkeys(names)}
    lines = [f"{COLUMNS} seeds | running: val | flipped too | test | precise: val | flipped too | test | CPU minutes |"]
    lines.append("|---|---|---|---|---|---|---|---|---|")
    fields = ("val_last", "val_flip", "test", "precise_val", "precise_val_flip", "precise_test")
    for name, found in sorted(of.items(), key=lambda item: -max(_mean(item[1], "val_last"), _mean(item[1], fields[3]))):
        if found:
            cells = [name, str(len(found)), *(_percent(found, field) for field in fields)]
            cells.append(f"{_mean(found, 'cpu_minutes'):.0f}")
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _values(rows: list[dict[str, str]], field: str) -> list[float]:
    return [float(row[field]) for row in rows if row[field]]


def _mean(rows: list[dict[str, str]], field: str) -> float:
    values = _values(rows, field)
    return statistics.mean(values) if values else 0.0


def _percent(rows: list[dict[str, str]], field: str) -> str:
    values = [100 * value for value in _values(rows, field)]
    if not values:
        return "–"
    spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.1f}{spread}"


if __name__ == "__main__":
    sys.exit(main())
